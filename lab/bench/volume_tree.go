package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// treeSpec says what a tree of files is like; the same spec makes the same tree.
type treeSpec struct {
	files int
	bytes int64
	seed  uint64
}

// make fills dir: sizes as volumes have them (most files small, most bytes in large ones), contents of
// text, of records that compress somewhat, and of noise, in equal shares.
func (s treeSpec) make(dir string) error {
	random := rand.New(rand.NewPCG(s.seed, 1))
	sizes := make([]float64, s.files)
	total := 0.0
	for i := range sizes {
		sizes[i] = math.Exp(random.NormFloat64() * 1.8)
		total += sizes[i]
	}
	for i, size := range sizes {
		sub := filepath.Join(dir, fmt.Sprintf("d%02d", i%40), fmt.Sprintf("e%02d", i/40%10))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		content := &content{random: rand.New(rand.NewPCG(s.seed, uint64(i)+2)), kind: i % 3}
		n := int64(size / total * float64(s.bytes))
		if err := writeFrom(filepath.Join(sub, fmt.Sprintf("f%05d", i)), io.LimitReader(content, n)); err != nil {
			return err
		}
	}
	return nil
}

// change rewrites a part of one in a hundred files, as an application would.
func (s treeSpec) change(dir string) (files int, err error) {
	for i := 0; i < s.files; i += 100 {
		path := filepath.Join(dir, fmt.Sprintf("d%02d", i%40), fmt.Sprintf("e%02d", i/40%10), fmt.Sprintf("f%05d", i))
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return files, err
		}
		_, err = fmt.Fprintf(f, "changed in file %d\n", i)
		if err := errors.Join(err, f.Close()); err != nil {
			return files, err
		}
		files++
	}
	return files, nil
}

func writeFrom(path string, in io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, in, make([]byte, 256<<10))
	return errors.Join(err, f.Close())
}

// content is an endless stream of one kind.
type content struct {
	random *rand.Rand
	kind   int
	rest   []byte
	block  []byte
}

func (c *content) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		c.block = c.next(c.block[:0])
		c.rest = c.block
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// next makes some 4 KiB.
func (c *content) next(b []byte) []byte {
	switch c.kind {
	case 0: // text, of words as frequent as in a language
		for len(b) < 4096 {
			word := uint32(math.Exp(c.random.Float64() * 8))
			for range 2 + word%7 {
				word = word*1664525 + 1013904223
				b = append(b, 'a'+byte(word>>24)%26)
			}
			if b = append(b, ' '); c.random.Uint32()%12 == 0 {
				b = append(b, '\n')
			}
		}
	case 1: // records
		for len(b) < 4096 {
			n := c.random.Uint64()
			b = fmt.Appendf(b, `{"id":%d,"state":"paid","total":%d,"token":"`, n>>40, n>>20%100_000)
			b = noise(noise(b, c.random), c.random)
			b = append(b, "\"}\x00\x00\x00\x00\x00\x00\x00\x00\n"...)
		}
	default:
		for len(b) < 4096 {
			b = noise(b, c.random)
		}
	}
	return b
}

func noise(b []byte, random *rand.Rand) []byte {
	n := random.Uint64()
	return append(b, byte(n), byte(n>>8), byte(n>>16), byte(n>>24), byte(n>>32), byte(n>>40), byte(n>>48), byte(n>>56))
}

// sameTree compares names, kinds, modes, times of modification and contents.
func sameTree(want, got string) error {
	seen := 0
	err := filepath.WalkDir(want, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		seen++
		return sameEntry(path, filepath.Join(got, rel))
	})
	if err != nil {
		return err
	}
	return filepath.WalkDir(got, func(path string, _ fs.DirEntry, err error) error {
		if seen--; err == nil && seen < 0 {
			err = fmt.Errorf("%s: more than there was", path)
		}
		return err
	})
}

func sameEntry(want, got string) error {
	w, err := os.Lstat(want)
	if err != nil {
		return err
	}
	g, err := os.Lstat(got)
	if err != nil {
		return err
	}
	if w.Mode() != g.Mode() || !w.ModTime().Equal(g.ModTime()) || w.Mode().IsRegular() && w.Size() != g.Size() {
		return fmt.Errorf("%s: %s %s %d, want %s %s %d", got, g.Mode(), g.ModTime().Format(time.RFC3339Nano), g.Size(), w.Mode(), w.ModTime().Format(time.RFC3339Nano), w.Size())
	}
	if !w.Mode().IsRegular() {
		return nil
	}
	return sameContent(want, got)
}

func sameContent(want, got string) error {
	w, err := os.Open(want)
	if err != nil {
		return err
	}
	defer w.Close()
	g, err := os.Open(got)
	if err != nil {
		return err
	}
	defer g.Close()
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(w, a)
		m, errB := io.ReadFull(g, b)
		if !bytes.Equal(a[:n], b[:m]) {
			return fmt.Errorf("%s: its content is another", got)
		}
		if errA != nil || errB != nil {
			if n == m && ended(errA) && ended(errB) {
				return nil
			}
			return errors.Join(errA, errB)
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
