package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

const (
	// batchPieces is how many blobs are restored together, in the order of packs.
	batchPieces = 8192
	// restoredHole is the length, and the alignment, of zeros that become a hole.
	restoredHole = 16 << 10
)

// piece is one blob of one file.
type piece struct {
	located
	file   *targetFile
	offset int64 // in the file
}

// batch gathers files until their blobs are worth being read.
type batch struct {
	restorer *dirRestorer
	pieces   []piece
	room     sync.Pool // of *[]byte: plaintext

	mu   sync.Mutex
	made map[*targetFile]struct{} // files that have a temporary name
}

// targetFile is a file that is being restored.
type targetFile struct {
	dir  *targetDir
	node *Node

	mu    sync.Mutex
	temp  string // "": not made yet
	fd    int
	kept  bool // fd is open
	holes bool // zeros were left out
	left  int  // blobs that are not dealt with
	err   error
}

func (f *targetFile) rel() string { return path.Join(f.dir.rel, f.node.Name) }

// add takes a file in, and restores the batch when it is full.
func (b *batch) add(ctx context.Context, dir *targetDir, n *Node) error {
	w := b.restorer
	f := &targetFile{dir: dir, node: n, left: len(n.Content)}
	blobs, err := w.repo.locateAll(ctx, DataBlob, n.Content)
	var size uint64
	for _, l := range blobs {
		size += uint64(l.at.plainLength())
	}
	if err == nil && size != n.Size {
		err = fmt.Errorf("%w: its blobs hold %d bytes, its node says %d", ErrDamaged, size, n.Size)
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDamaged) {
		w.lose(f.rel(), err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.rel(), err)
	}
	w.hold(dir)
	if dir.existed && n.Links <= 1 {
		if same, err := b.isThere(f, blobs); err != nil || same {
			return err
		}
	}
	if len(blobs) == 0 {
		return b.end(f)
	}
	var offset int64
	for _, l := range blobs {
		b.pieces = append(b.pieces, piece{located: l, file: f, offset: offset})
		offset += int64(l.at.plainLength())
		if len(b.pieces) == batchPieces {
			if err := b.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// isThere looks whether a file with this content is in its place, and if so gives it the rest.
func (b *batch) isThere(f *targetFile, blobs []located) (same bool, err error) {
	w := b.restorer
	err = w.within(f.dir, func(dir int) error {
		fd, err := openAt(dir, f.node.Name, unix.O_RDONLY)
		if err != nil {
			return nil //nolint:nilerr // then it is not there in a way that could be used
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || uint64(st.Size) != f.node.Size {
			return nil //nolint:nilerr // as above
		}
		if !sameBlobs(openFile(fd), blobs) {
			return nil
		}
		same = true
		w.chown(dir, f.node.Name, f.node)
		w.xattrs(f.rel(), fd, f.node, true)
		if err := unix.Fchmod(fd, permissions(f.node.Mode)); err != nil {
			return fmt.Errorf("%s: %w", f.rel(), err)
		}
		return setTimes(dir, f.node.Name, f.node)
	})
	if err != nil || !same {
		return false, err
	}
	w.count(1, 0, int64(f.node.Size))
	return true, w.release(f.dir)
}

// sameBlobs compares what a reader gives with blobs.
func sameBlobs(in io.Reader, blobs []located) bool {
	var data []byte
	for _, l := range blobs {
		data = slices.Grow(data[:0], int(l.at.plainLength()))[:l.at.plainLength()]
		if _, err := io.ReadFull(in, data); err != nil || hash(data) != l.id {
			return false
		}
	}
	return true
}

// flush restores what was gathered.
func (b *batch) flush(ctx context.Context) error {
	pieces := b.pieces
	b.pieces = b.pieces[:0]
	slices.SortFunc(pieces, func(x, y piece) int {
		if c := bytes.Compare(x.pack[:], y.pack[:]); c != 0 {
			return c
		}
		return int(int64(x.at.Offset) - int64(y.at.Offset))
	})
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * saverWorkers())
	for len(pieces) > 0 && gctx.Err() == nil {
		n := runLength(pieces)
		run := pieces[:n]
		pieces = pieces[n:]
		group.Go(func() error { return b.run(gctx, run) })
	}
	return errors.Join(group.Wait(), context.Cause(ctx))
}

// runLength is how many of the sorted pieces are read with one request.
func runLength(pieces []piece) int {
	first := pieces[0]
	end := int64(first.at.Offset) + int64(first.at.Length)
	for i, p := range pieces[1:] {
		from, to := int64(p.at.Offset), int64(p.at.Offset)+int64(p.at.Length)
		if p.pack != first.pack || from-end > readGap || to-int64(first.at.Offset) > readAhead {
			return i + 1
		}
		end = max(end, to)
	}
	return len(pieces)
}

// run reads the blobs of a run and writes each into the files that want it.
func (b *batch) run(ctx context.Context, run []piece) error {
	r := b.restorer.repo
	first, last := run[0], run[len(run)-1]
	length := int64(last.at.Offset) + int64(last.at.Length) - int64(first.at.Offset)
	object, err := r.store.Get(ctx, packName(first.pack), blob.Range{Offset: int64(first.at.Offset), Length: length})
	whole := err == nil && int64(len(object.Data)) == length
	room, _ := b.room.Get().(*[]byte)
	if room == nil {
		room = new([]byte)
	}
	defer b.room.Put(room)
	for len(run) > 0 && (whole || ctx.Err() == nil) { // what was fetched is used, so that a later try needs not
		p := run[0]
		n := 1
		for n < len(run) && run[n].id == p.id {
			n++
		}
		var data []byte
		if whole {
			from := p.at.Offset - first.at.Offset
			data, err = unpackInto(r, *room, DataBlob, p.id, p.pack, p.at, object.Data[from:from+p.at.Length])
		}
		if !whole {
			// This copes with packs that were rewritten, and words errors exactly.
			data, err = r.LoadBlob(ctx, DataBlob, p.id)
		}
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotFound) && !errors.Is(err, blob.ErrNotFound) {
			return fmt.Errorf("%s: %w", p.file.rel(), err)
		}
		for _, p := range run[:n] {
			if err := b.take(p, data, err); err != nil {
				return err
			}
		}
		if whole && p.at.Plain != 0 && cap(data) > cap(*room) { // else the memory is not the room's
			*room = data
		}
		run = run[n:]
	}
	return context.Cause(ctx)
}

// take writes a blob into one of its files, or notes that it cannot be had; after the file's last the
// file is finished.
func (b *batch) take(p piece, data []byte, lost error) error {
	f := p.file
	if lost == nil {
		if err := b.write(f, data, p.offset); err != nil {
			return fmt.Errorf("%s: %w", f.rel(), err)
		}
		b.restorer.count(0, 0, int64(len(data)))
	}
	f.mu.Lock()
	if lost != nil && f.err == nil {
		f.err = lost
	}
	f.left--
	left := f.left
	f.mu.Unlock()
	if left > 0 {
		return nil
	}
	return b.end(f)
}

// use calls fn with the descriptor of a file under its temporary name.
func (b *batch) use(f *targetFile, dir int, fn func(fd int) error) error {
	f.mu.Lock()
	fd, kept := f.fd, f.kept
	if !kept {
		flags := unix.O_WRONLY
		if f.temp == "" {
			flags |= unix.O_CREAT | unix.O_EXCL
			f.temp = b.restorer.names.next()
		}
		var err error
		if fd, err = openAt(dir, f.temp, flags); err != nil {
			if flags&unix.O_CREAT != 0 {
				f.temp = ""
			}
			f.mu.Unlock()
			return os.NewSyscallError("open", err)
		}
		if flags&unix.O_CREAT != 0 {
			b.mu.Lock()
			if b.made == nil {
				b.made = map[*targetFile]struct{}{}
			}
			b.made[f] = struct{}{}
			b.mu.Unlock()
		}
		if kept = b.restorer.mayKeep(); kept {
			f.fd, f.kept = fd, true
		}
	}
	f.mu.Unlock()
	err := fn(fd)
	if !kept {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}

// write writes at an offset, and leaves out long runs of zeros.
func (b *batch) write(f *targetFile, data []byte, offset int64) error {
	return b.restorer.within(f.dir, func(dir int) error {
		return b.use(f, dir, func(fd int) error {
			for len(data) > 0 {
				n, zeros := nextSpan(data, offset)
				if zeros {
					f.mu.Lock()
					f.holes = true
					f.mu.Unlock()
				} else if err := writeAt(fd, data[:n], offset); err != nil {
					return err
				}
				data, offset = data[n:], offset+int64(n)
			}
			return nil
		})
	})
}

func writeAt(fd int, data []byte, offset int64) error {
	for len(data) > 0 {
		var n int
		err := retry(func() (err error) { n, err = unix.Pwrite(fd, data, offset); return err })
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}

// nextSpan is how much of the beginning is to be written, or is zeros, by blocks of the file: what is not
// written in a new file is zero.
func nextSpan(data []byte, offset int64) (length int, zeros bool) {
	for length < len(data) {
		block := min(restoredHole-int((offset+int64(length))%restoredHole), len(data)-length)
		zero := isZero(data[length : length+block])
		if length > 0 && zero != zeros {
			break
		}
		length, zeros = length+block, zero
	}
	return length, zeros
}

func isZero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

// end gives a file that is whole its attributes and its name, and removes one that is not.
func (b *batch) end(f *targetFile) error {
	w := b.restorer
	if f.err != nil {
		w.lose(f.rel(), f.err)
		return errors.Join(b.discard(f), w.release(f.dir))
	}
	err := w.within(f.dir, func(dir int) error {
		err := b.use(f, dir, func(fd int) error {
			if f.holes {
				if err := unix.Ftruncate(fd, int64(f.node.Size)); err != nil {
					return os.NewSyscallError("truncate", err)
				}
			}
			w.chown(dir, f.temp, f.node)
			w.xattrs(f.rel(), fd, f.node, false)
			return os.NewSyscallError("chmod", unix.Fchmod(fd, permissions(f.node.Mode)))
		})
		if err == nil {
			err = setTimes(dir, f.temp, f.node)
		}
		err = errors.Join(err, b.forget(f))
		return w.putInPlace(dir, f.rel(), f.temp, err)
	})
	if err != nil {
		return err
	}
	w.count(1, 0, 0)
	return w.release(f.dir)
}

// forget closes a file that has its name, or is to be removed.
func (b *batch) forget(f *targetFile) error {
	b.mu.Lock()
	delete(b.made, f)
	b.mu.Unlock()
	if !f.kept {
		return nil
	}
	f.kept = false
	b.restorer.closed()
	return os.NewSyscallError("close", unix.Close(f.fd))
}

// discard removes a file that is not whole.
func (b *batch) discard(f *targetFile) error {
	if f.temp == "" {
		return nil
	}
	err := b.forget(f)
	return errors.Join(err, b.restorer.within(f.dir, func(dir int) error { return unix.Unlinkat(dir, f.temp, 0) }))
}

// abandon removes what an error left unfinished.
func (b *batch) abandon() error {
	b.mu.Lock()
	left := b.made
	b.made = nil
	b.mu.Unlock()
	var errs []error
	for f := range left {
		errs = append(errs, b.discard(f))
	}
	return errors.Join(errs...)
}
