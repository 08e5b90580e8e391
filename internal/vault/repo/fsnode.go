package repo

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// nodeOf describes an entry of a directory by what the kernel says of it. root is the device number of
// the directory that is being saved: numbers differ from mount to mount, so that only what lies on other
// file systems keeps one, for telling their inodes apart.
func nodeOf(name string, st *unix.Stat_t, root uint64) *Node {
	mtime := timeOf(st.Mtim)
	n := &Node{
		Name: name, Mode: modeOf(uint32(st.Mode)), UID: st.Uid, GID: st.Gid, Inode: st.Ino, //nolint:unconvert // its size differs between systems
		ModTime: mtime, AccessTime: mtime, ChangeTime: timeOf(st.Ctim), // reading changes the time of access
	}
	links, device := uint64(st.Nlink), uint64(st.Dev)^root //nolint:unconvert // their sizes differ between systems
	switch n.Mode.Type() {
	case 0:
		n.Type, n.Size, n.Links = FileNode, uint64(st.Size), links
	case fs.ModeDir:
		n.Type = DirNode
	case fs.ModeSymlink:
		n.Type, n.Links = SymlinkNode, links
	case fs.ModeNamedPipe:
		n.Type = FifoNode
	case fs.ModeSocket:
		n.Type = SocketNode
	case fs.ModeDevice:
		n.Type, n.Links, n.Device = DeviceNode, links, uint64(st.Rdev) //nolint:unconvert // as above
	default:
		n.Type, n.Links, n.Device = CharDeviceNode, links, uint64(st.Rdev) //nolint:unconvert // as above
	}
	n.DeviceID = device
	return n
}

func timeOf(ts unix.Timespec) time.Time { return time.Unix(ts.Unix()).UTC() }

// modeOf is a file's mode as Go, and the format, have it.
func modeOf(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	}
	if m&unix.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if m&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if m&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// permissions is modeOf turned round, without the type.
func permissions(mode fs.FileMode) uint32 {
	m := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		m |= unix.S_ISUID
	}
	if mode&fs.ModeSetgid != 0 {
		m |= unix.S_ISGID
	}
	if mode&fs.ModeSticky != 0 {
		m |= unix.S_ISVTX
	}
	return m
}

// sameTimes says whether a file is what it was, as far as that can be told without reading it.
func sameTimes(a, b *Node) bool {
	return a.Type == b.Type && a.Size == b.Size && a.Inode == b.Inode &&
		a.ModTime.Equal(b.ModTime) && a.ChangeTime.Equal(b.ChangeTime)
}

// statAt describes an entry of an open directory, of a link itself.
func statAt(dir int, name string) (st unix.Stat_t, err error) {
	err = retry(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return st, err
}

// openAt opens an entry of an open directory; never what a link points to, and never waiting for the
// other end of a pipe that has taken a file's place.
func openAt(dir int, name string, flags int) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		return err
	})
	return fd, err
}

func readlinkAt(dir int, name string) (string, error) {
	for size := 256; ; size *= 4 {
		buffer := make([]byte, size)
		n, err := unix.Readlinkat(dir, name, buffer)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buffer[:n]), nil
		}
	}
}

// retry does again what a signal interrupted.
func retry(do func() error) error {
	for {
		if err := do(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// openFile is an open file without what package os adds, which costs much where files are small.
type openFile int

func (f openFile) Read(p []byte) (n int, err error) {
	err = retry(func() error { n, err = unix.Read(int(f), p); return err })
	switch {
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

func (f openFile) Close() error { return unix.Close(int(f)) }
