package repo

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// keptOpen is how many directories and files of a restore stay open between uses.
const keptOpen = 400

// targetDir is a directory that is being restored. It gets its mode and times once nothing is to be
// made in it any more.
type targetDir struct {
	above   *targetDir
	rel     string
	node    *Node // nil: the target of a tree that does not describe it
	existed bool  // it may hold something already
	pending int   // what is yet to be done in it; guarded by dirRestorer.mu

	mu   sync.Mutex
	file *os.File // nil: not open now
}

// within calls fn with the directory's descriptor.
func (w *dirRestorer) within(d *targetDir, fn func(fd int) error) error {
	d.mu.Lock()
	file := d.file
	keep := file != nil
	if file == nil {
		var err error
		if file, err = w.root.OpenFile(d.rel, os.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			d.mu.Unlock()
			return err
		}
		if keep = w.mayKeep(); keep {
			d.file = file
			w.mu.Lock()
			w.dirs[d] = struct{}{}
			w.mu.Unlock()
		}
	}
	d.mu.Unlock()
	err := fn(int(file.Fd()))
	if !keep {
		err = errors.Join(err, file.Close())
	}
	return err
}

// mayKeep counts one more open file, if there may be one.
func (w *dirRestorer) mayKeep() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open >= keptOpen {
		return false
	}
	w.open++
	return true
}

// closed counts one open file less.
func (w *dirRestorer) closed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
}

// close closes a directory if it is open.
func (w *dirRestorer) close(d *targetDir) error {
	d.mu.Lock()
	file := d.file
	d.file = nil
	d.mu.Unlock()
	if file == nil {
		return nil
	}
	w.closed()
	w.mu.Lock()
	delete(w.dirs, d)
	w.mu.Unlock()
	return file.Close()
}

// closeAll closes what an error left open.
func (w *dirRestorer) closeAll() {
	w.mu.Lock()
	var left []*targetDir
	for d := range w.dirs {
		left = append(left, d)
	}
	w.mu.Unlock()
	for _, d := range left {
		_ = w.close(d) // it was only read
	}
}

// hold notes that something is yet to be done in a directory.
func (w *dirRestorer) hold(d *targetDir) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d.pending++
}

// release notes that something in a directory is done, and finishes the directory after the last.
func (w *dirRestorer) release(d *targetDir) error {
	for ; d != nil; d = d.above {
		w.mu.Lock()
		d.pending--
		left := d.pending
		w.mu.Unlock()
		if left > 0 {
			return nil
		}
		if err := w.finishDir(d); err != nil {
			return fmt.Errorf("%s: %w", d.rel, err)
		}
		w.count(0, 1, 0)
	}
	return nil
}

// finishDir sets owner, attributes, mode and times, in the order in which one does not undo the other.
func (w *dirRestorer) finishDir(d *targetDir) error {
	if d.node == nil {
		return w.close(d)
	}
	err := w.within(d, func(fd int) error {
		w.chown(fd, ".", d.node)
		w.xattrs(d.rel, fd, d.node, d.existed)
		if err := unix.Fchmod(fd, permissions(d.node.Mode)); err != nil {
			return os.NewSyscallError("chmod", err)
		}
		return setTimes(fd, ".", d.node)
	})
	return errors.Join(err, w.close(d))
}

// chown needs root where the owner is somebody else.
func (w *dirRestorer) chown(dir int, name string, n *Node) {
	if err := unix.Fchownat(dir, name, int(n.UID), int(n.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.foreign++
	}
}

// xattrs sets an open file's attributes; what is new and should have none has none.
func (w *dirRestorer) xattrs(rel string, fd int, n *Node, existed bool) {
	if len(n.Xattrs) == 0 && !existed {
		return
	}
	if err := writeXattrs(fd, n.Xattrs); err != nil {
		w.warn(fmt.Sprintf("%s: %v", rel, err))
	}
}

// setTimes sets the times of an entry of an open directory, of a link itself.
func setTimes(dir int, name string, n *Node) error {
	read := n.AccessTime
	if read.IsZero() {
		read = n.ModTime
	}
	var ts [2]unix.Timespec
	var err [2]error
	ts[0], err[0] = unix.TimeToTimespec(read)
	ts[1], err[1] = unix.TimeToTimespec(n.ModTime)
	if err := errors.Join(err[:]...); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(dir, name, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// putInPlace gives what was made under a temporary name its own, or removes it when err says that it
// was not made.
func (w *dirRestorer) putInPlace(dir int, rel, temp string, err error) error {
	if err == nil {
		name := path.Base(rel)
		err = unix.Renameat(dir, temp, dir, name)
		if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
			// An empty directory may go for what the copy has in its place; one that holds something may not.
			if err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err == nil {
				err = unix.Renameat(dir, temp, dir, name)
			} else {
				err = fmt.Errorf("a directory with other contents is in the way: %w", err)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", rel, errors.Join(err, unix.Unlinkat(dir, temp, 0)))
	}
	return nil
}

// tempNames gives out names that nothing else has.
type tempNames struct {
	prefix string
	n      atomic.Uint32
}

func newTempNames() *tempNames { return &tempNames{prefix: ".lifeboat-" + rand.Text()[:9]} }

func (t *tempNames) next() string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	n := t.n.Add(1)
	name := []byte(t.prefix)
	for range 7 {
		name = append(name, digits[n%32])
		n /= 32
	}
	return string(name)
}

// firstName is where a file of several names is restored.
type firstName struct {
	dir     *targetDir
	name    string
	content []ID
}

// laterLink is a further name of a file, made when all files are there.
type laterLink struct {
	dir   *targetDir
	name  string
	size  int64
	first *firstName
}

// firstName says whether this is the first name of its file; where not, which one was.
func (w *dirRestorer) firstName(dir *targetDir, n *Node) (first *firstName, ok bool) {
	key := inode{n.DeviceID, n.Inode}
	first = w.first[key]
	if n.Inode == 0 || first != nil && !sameIDs(first.content, n.Content) {
		return nil, true // it was replaced between the two being saved, or cannot be told
	}
	if first == nil {
		w.first[key] = &firstName{dir: dir, name: n.Name, content: n.Content}
		return nil, true
	}
	return first, false
}

func sameIDs(a, b []ID) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// link makes a further name of a file.
func (w *dirRestorer) link(l laterLink) error {
	rel := path.Join(l.dir.rel, l.name)
	err := w.within(l.first.dir, func(from int) error {
		return w.within(l.dir, func(to int) error {
			st, err := statAt(from, l.first.name)
			if errors.Is(err, unix.ENOENT) {
				w.lose(rel, errors.New("the file that it is another name of cannot be restored"))
				return nil
			}
			if err != nil {
				return fmt.Errorf("%s: %w", rel, err)
			}
			w.count(1, 0, l.size)
			if is, err := statAt(to, l.name); err == nil && is.Ino == st.Ino && is.Dev == st.Dev {
				return nil
			}
			temp := w.names.next()
			if err := unix.Linkat(from, l.first.name, to, temp, 0); err != nil {
				return fmt.Errorf("%s: %w", rel, err)
			}
			return w.putInPlace(to, rel, temp, nil)
		})
	})
	return errors.Join(err, w.release(l.dir))
}
