package repo

import (
	"bytes"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// carried says which extended attributes belong to the data: what users set, and access lists. Labels
// of the machine's security modules do not.
func carried(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_")
}

// readXattrs reads the attributes of an open file; a file system without any has none.
func readXattrs(f *os.File) ([]Xattr, error) {
	buffer := make([]byte, 64<<10) // the kernel's limit
	n, err := unix.Flistxattr(int(f.Fd()), buffer)
	if err != nil {
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
			return nil, nil
		}
		return nil, &os.PathError{Op: "listxattr", Path: f.Name(), Err: err}
	}
	var attrs []Xattr
	for name := range bytes.SplitSeq(bytes.Clone(buffer[:n]), []byte{0}) {
		if !carried(string(name)) {
			continue
		}
		n, err := unix.Fgetxattr(int(f.Fd()), string(name), buffer)
		if errors.Is(err, unix.ENODATA) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, &os.PathError{Op: "getxattr", Path: f.Name(), Err: err}
		}
		attrs = append(attrs, Xattr{Name: string(name), Value: bytes.Clone(buffer[:n])})
	}
	return attrs, nil
}

func writeXattrs(f *os.File, attrs []Xattr) error {
	for _, a := range attrs {
		if !carried(a.Name) {
			continue
		}
		if err := unix.Fsetxattr(int(f.Fd()), a.Name, a.Value, 0); err != nil {
			return &os.PathError{Op: "setxattr " + a.Name, Path: f.Name(), Err: err}
		}
	}
	return nil
}

// syncAll makes everything on the directory's file system durable.
func syncAll(dir *os.File) error {
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: dir.Name(), Err: err}
	}
	return nil
}
