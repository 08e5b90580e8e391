// Package images builds minimal container images from static programs, the same bytes each time, and
// pushes them to a registry.
package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Image describes an image FROM scratch.
type Image struct {
	Files      []File
	Entrypoint []string
	Env        []string // "NAME=value"
	User       string   // "0" if empty
	Workdir    string
	Labels     map[string]string
}

// File is a file, directory (Mode has fs.ModeDir) or symbolic link (Link is set) of an image.
type File struct {
	Path   string // absolute in the image
	Source string // host file whose content it gets; or Data
	Data   []byte
	Link   string
	Mode   fs.FileMode // 0: 0755 for Source and directories, 0644 for Data
}

// caBundle is where Debian and its kin keep the CAs that the machine trusts.
const caBundle = "/etc/ssl/certs/ca-certificates.crt"

// Program is the usual image of one static program: /bin/NAME, entrypoint [/bin/NAME], /etc/passwd, /tmp,
// and the machine's CA certificates where there are some.
func Program(program, source string) Image {
	img := Image{
		Files: []File{
			{Path: "/bin/" + program, Source: source},
			{Path: "/etc/passwd", Data: []byte("root:x:0:0::/:/sbin/nologin\nnobody:x:65534:65534::/:/sbin/nologin\n")},
			{Path: "/etc/group", Data: []byte("root:x:0:\nnobody:x:65534:\n")},
			{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		},
		Entrypoint: []string{"/bin/" + program},
		Env:        []string{"PATH=/bin"},
	}
	if _, err := os.Stat(caBundle); err == nil {
		img.Files = append(img.Files, File{Path: caBundle, Source: caBundle, Mode: 0o644})
	}
	return img
}

// Push builds an image and pushes it to ref over plain HTTP; it returns the digest.
func Push(ctx context.Context, ref string, img Image) (digest string, err error) {
	tag, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("image name %s: %w", ref, err)
	}
	built, err := build(img)
	if err != nil {
		return "", fmt.Errorf("building image %s: %w", ref, err)
	}
	if err := remote.Write(tag, built, remote.WithContext(ctx)); err != nil {
		return "", fmt.Errorf("pushing image %s: %w", ref, err)
	}
	h, err := built.Digest()
	if err != nil {
		return "", fmt.Errorf("digest of image %s: %w", ref, err)
	}
	return h.String(), nil
}

func build(img Image) (v1.Image, error) {
	// Layers are read several times while they are pushed; each time they are written anew from the files.
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(archive(w, img.Files)) }()
		return r, nil
	}, tarball.WithCompressionLevel(1))
	if err != nil {
		return nil, err
	}
	out, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(out, config(out, img))
}

func config(base v1.Image, img Image) *v1.ConfigFile {
	c := &v1.ConfigFile{}
	if had, err := base.ConfigFile(); err == nil { // an image made here a moment ago has one
		c = had.DeepCopy()
	}
	c.Architecture, c.OS, c.Created = runtime.GOARCH, "linux", v1.Time{Time: time.Unix(0, 0).UTC()}
	c.Config = v1.Config{Entrypoint: img.Entrypoint, Env: img.Env, User: img.User, WorkingDir: img.Workdir, Labels: img.Labels}
	if c.Config.User == "" {
		c.Config.User = "0"
	}
	return c
}

// archive writes the files with all of their directories, sorted, without times or owners of the host.
func archive(w io.Writer, files []File) error {
	all := map[string]File{}
	for _, f := range files {
		p := strings.TrimPrefix(path.Clean(f.Path), "/")
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if _, ok := all[d]; !ok {
				all[d] = File{Mode: fs.ModeDir | 0o755}
			}
		}
		all[p] = f
	}
	names := make([]string, 0, len(all))
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	t := tar.NewWriter(w)
	for _, n := range names {
		if err := add(t, n, all[n]); err != nil {
			return fmt.Errorf("adding /%s: %w", n, err)
		}
	}
	return t.Close()
}

func add(t *tar.Writer, name string, f File) (err error) {
	h := &tar.Header{Name: name, Mode: int64(f.Mode.Perm()), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	if f.Mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	var content io.Reader
	switch {
	case f.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case f.Link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
	case f.Source != "":
		src, err := os.Open(f.Source)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, src.Close()) }()
		st, err := src.Stat()
		if err != nil {
			return err
		}
		h.Typeflag, h.Size, content = tar.TypeReg, st.Size(), src
		if h.Mode == 0 {
			h.Mode = 0o755
		}
	default:
		h.Typeflag, h.Size, content = tar.TypeReg, int64(len(f.Data)), bytes.NewReader(f.Data)
		if h.Mode == 0 {
			h.Mode = 0o644
		}
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	if content == nil {
		return nil
	}
	_, err = io.Copy(t, content)
	return err
}
