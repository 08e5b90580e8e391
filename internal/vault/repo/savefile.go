package repo

import (
	"bytes"
	"context"
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// leastHole is the length of a hole that is worth a cut in the file's blobs; shorter ones are read.
const leastHole = 1 << 20

// file stores a regular file. A nil node without an error means that it is missing.
func (w *dirSaver) file(ctx context.Context, dir int, rel string, node *Node) (*Node, error) {
	fd, err := openAt(dir, node.Name, unix.O_RDONLY)
	if err != nil {
		w.missing(rel, err)
		return nil, nil
	}
	file := openFile(fd)
	defer file.Close()
	var before, after unix.Stat_t
	if err := unix.Fstat(fd, &before); err != nil {
		w.missing(rel, err)
		return nil, nil
	}
	node = nodeOf(node.Name, &before, w.device)
	if node.Type != FileNode {
		w.missing(rel, errors.New("is no longer a file"))
		return nil, nil
	}
	if node.Xattrs, err = readXattrs(fd); err != nil {
		w.missing(rel, err)
		return nil, nil
	}
	known := inode{uint64(before.Dev), before.Ino} //nolint:unconvert // its size differs between systems
	if node.Links > 1 && w.sameAsLinked(known, node) {
		return node, nil
	}
	size, err := w.fileContent(ctx, file, &before, node)
	var failed *readError
	if errors.As(err, &failed) {
		w.missing(rel, failed.err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	node.Size = uint64(size)
	err = unix.Fstat(fd, &after)
	w.mu.Lock()
	if err != nil || size != before.Size || after.Size != before.Size || after.Mtim != before.Mtim {
		w.result.Changed = append(w.result.Changed, rel)
	} else if node.Links > 1 {
		w.linked[known] = node.Content
	}
	w.mu.Unlock()
	w.count(1, 0, 0)
	return node, nil
}

// sameAsLinked takes over what was read of the file under another of its names.
func (w *dirSaver) sameAsLinked(known inode, node *Node) bool {
	w.mu.Lock()
	content, ok := w.linked[known]
	w.mu.Unlock()
	if ok {
		node.Content = content
		w.count(1, 0, int64(node.Size))
	}
	return ok
}

// fileContent stores a file's bytes and says how many they were.
func (w *dirSaver) fileContent(ctx context.Context, file openFile, st *unix.Stat_t, node *Node) (size int64, err error) {
	if st.Size >= leastHole && st.Blocks*512 < st.Size {
		node.Content, size, err = w.sparse(ctx, file, st.Size)
		return size, err
	}
	node.Content, size, err = w.content(ctx, file, st.Size)
	return size, err
}

// content stores a stream of about a size. Most files are small and need neither chunker nor goroutine.
func (w *dirSaver) content(ctx context.Context, in io.Reader, size int64) ([]ID, int64, error) {
	said := func(n int) { w.count(0, 0, int64(n)) }
	if size >= minChunk {
		return w.saver.saveStream(ctx, in, said)
	}
	buffer := w.buffers.Get().(*[]byte)
	defer w.buffers.Put(buffer)
	if int64(cap(*buffer)) <= size {
		*buffer = make([]byte, max(2*size, 16<<10))
	}
	data := (*buffer)[:size+1] // one more, to see the end
	n, err := io.ReadFull(in, data)
	switch {
	case err == nil: // it has grown
		return w.saver.saveStream(ctx, io.MultiReader(bytes.NewReader(data), in), said)
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, 0, &readError{err}
	case n == 0:
		return []ID{}, 0, nil
	}
	id, err := w.saver.saveSmall(ctx, DataBlob, data[:n])
	said(n)
	return []ID{id}, int64(n), err
}

// sparse stores a file that has holes: their zeros, in the largest chunks, without reading them.
func (w *dirSaver) sparse(ctx context.Context, file openFile, size int64) ([]ID, int64, error) {
	ids := []ID{}
	for at := int64(0); at < size; {
		start, end := nextLongData(int(file), at, size)
		if start > at {
			zeros, err := w.zeros(ctx, start-at)
			if err != nil {
				return nil, 0, err
			}
			ids = append(ids, zeros...)
		}
		if at = start; start == end {
			continue
		}
		part := io.NewSectionReader(readerAt{file}, start, end-start)
		more, n, err := w.content(ctx, part, end-start)
		if err != nil {
			return nil, 0, err
		}
		ids = append(ids, more...)
		at += n
		if at < end {
			return ids, at, nil // it was cut short meanwhile
		}
	}
	return ids, size, nil
}

// nextLongData is nextData, over holes that are short.
func nextLongData(fd int, offset, size int64) (start, end int64) {
	start, end = nextData(fd, offset, size)
	if start-offset < leastHole {
		start = offset
	}
	for end < size {
		next, nextEnd := nextData(fd, end, size)
		if next-end >= leastHole {
			break
		}
		end = nextEnd
	}
	return start, end
}

// zeros returns the blobs of that many zeros.
func (w *dirSaver) zeros(ctx context.Context, length int64) ([]ID, error) {
	var ids []ID
	var whole ID
	zero := make([]byte, min(length, maxChunk))
	for length > 0 {
		n := min(length, maxChunk)
		id := whole
		if n < maxChunk || whole.IsZero() {
			var err error
			if id, err = w.saver.saveSmall(ctx, DataBlob, zero[:n]); err != nil {
				return nil, err
			}
		}
		if n == maxChunk {
			whole = id
		}
		ids = append(ids, id)
		length -= n
		w.count(0, 0, n)
	}
	return ids, nil
}

// readerAt reads an open file at an offset, without moving it.
type readerAt struct{ openFile }

// ReadAt implements io.ReaderAt.
func (r readerAt) ReadAt(p []byte, offset int64) (done int, err error) {
	for done < len(p) {
		var n int
		err := retry(func() error { n, err = unix.Pread(int(r.openFile), p[done:], offset+int64(done)); return err })
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}
