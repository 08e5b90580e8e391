package repo

import (
	"bytes"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const maxXattr = 64 << 10 // the kernel's limit, of a value and of the list of names

// carried says which extended attributes belong to the data: what users set, access lists, and what a
// program may do. Labels of the machine's security modules do not.
func carried(name string) bool {
	switch name {
	case "security.capability", "system.nfs4_acl":
		return true
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_")
}

// without says that there is no such attribute, or that the file system has none.
func without(err error) bool {
	return errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS)
}

// listXattrs returns the names of those attributes of an open file that are carried.
func listXattrs(fd int) ([]string, error) {
	n, err := unix.Flistxattr(fd, nil)
	if err != nil || n == 0 {
		if err == nil || without(err) {
			return nil, nil
		}
		return nil, os.NewSyscallError("listxattr", err)
	}
	buffer := make([]byte, maxXattr)
	if n, err = unix.Flistxattr(fd, buffer); err != nil {
		return nil, os.NewSyscallError("listxattr", err)
	}
	var names []string
	for name := range bytes.SplitSeq(buffer[:n], []byte{0}) {
		if carried(string(name)) {
			names = append(names, string(name))
		}
	}
	return names, nil
}

// readXattrs reads the attributes of an open file; a file system without any has none.
func readXattrs(fd int) ([]Xattr, error) {
	names, err := listXattrs(fd)
	if len(names) == 0 {
		return nil, err
	}
	buffer := make([]byte, maxXattr)
	var attrs []Xattr
	for _, name := range names {
		n, err := unix.Fgetxattr(fd, name, buffer)
		if without(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, os.NewSyscallError("getxattr "+name, err)
		}
		attrs = append(attrs, Xattr{Name: name, Value: bytes.Clone(buffer[:n])})
	}
	return attrs, nil
}

// writeXattrs gives an open file these attributes and, of those that are carried, no others. It goes on
// after an error.
func writeXattrs(fd int, attrs []Xattr) error {
	names, err := listXattrs(fd)
	errs := []error{err}
	wanted := map[string]bool{}
	for _, a := range attrs {
		if !carried(a.Name) {
			continue
		}
		wanted[a.Name] = true
		if err := unix.Fsetxattr(fd, a.Name, a.Value, 0); err != nil {
			errs = append(errs, os.NewSyscallError("setxattr "+a.Name, err))
		}
	}
	for _, name := range names {
		if wanted[name] {
			continue
		}
		if err := unix.Fremovexattr(fd, name); err != nil && !without(err) {
			errs = append(errs, os.NewSyscallError("removexattr "+name, err))
		}
	}
	return errors.Join(errs...)
}

// dropDefaultACL takes away from an open directory what new entries would inherit.
func dropDefaultACL(fd int) error {
	if err := unix.Fremovexattr(fd, "system.posix_acl_default"); err != nil && !without(err) {
		return os.NewSyscallError("removexattr", err)
	}
	return nil
}

// makeSpecial makes a pipe or a device in an open directory.
func makeSpecial(dir int, name string, t NodeType, device uint64) error {
	mode := uint32(unix.S_IFIFO)
	switch t {
	case DeviceNode:
		mode = unix.S_IFBLK
	case CharDeviceNode:
		mode = unix.S_IFCHR
	}
	return unix.Mknodat(dir, name, mode|0o600, int(device))
}

// nextData returns where the next data of an open file begins and ends, at or after offset; the file's
// size twice when there is none, and all that is left when the file system does not tell.
func nextData(fd int, offset, size int64) (start, end int64) {
	start, err := unix.Seek(fd, offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size
	}
	if err != nil || start < offset {
		return offset, size
	}
	if end, err = unix.Seek(fd, start, unix.SEEK_HOLE); err != nil || end <= start {
		end = size
	}
	return min(start, size), min(end, size)
}

// syncAll makes everything on the directory's file system durable.
func syncAll(dir *os.File) error {
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: dir.Name(), Err: err}
	}
	return nil
}
