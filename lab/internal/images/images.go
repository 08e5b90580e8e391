// Package images builds minimal container images from static programs, the same bytes each time, and
// pushes them to a registry.
package images

import (
	"context"
	"errors"
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
	Mode   int64 // permission bits; 0: 0755 for Source, 0644 for Data
}

// Push builds an image and pushes it to ref over plain HTTP; it returns the digest.
func Push(ctx context.Context, ref string, img Image) (digest string, err error) {
	return "", errors.New("not built yet")
}

// Program is the usual image of one static program: /bin/NAME, entrypoint [/bin/NAME], /etc/passwd, /tmp,
// and the machine's CA certificates where there are some.
func Program(name, source string) Image {
	return Image{Files: []File{{Path: "/bin/" + name, Source: source}}, Entrypoint: []string{"/bin/" + name}}
}
