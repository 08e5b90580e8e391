package repo

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

func BenchmarkSaveAndRestoreDir(b *testing.B) {
	source := b.TempDir()
	const files, size = 64, 4 << 20
	for i := range files {
		data := noise(uint64(i), size)
		copy(data[size/2:], make([]byte, size/2)) // half of it compresses
		if err := os.WriteFile(filepath.Join(source, fmt.Sprint(i)), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	open := func() *Repo {
		store, err := blob.OpenFile(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		r, err := Init(b.Context(), store, testPassword)
		if err != nil {
			b.Fatal(err)
		}
		return r
	}
	b.Run("save", func(b *testing.B) {
		b.SetBytes(files * size)
		for b.Loop() {
			saveDir(b, open(), source, SaveDirOptions{})
		}
	})
	r := open()
	result, _ := saveDir(b, r, source, SaveDirOptions{})
	b.Run("unchanged", func(b *testing.B) {
		b.SetBytes(files * size)
		for b.Loop() {
			saveDir(b, r, source, SaveDirOptions{})
		}
	})
	b.Run("restore", func(b *testing.B) {
		b.SetBytes(files * size)
		for b.Loop() {
			if _, err := r.RestoreDir(b.Context(), result.Tree, b.TempDir(), RestoreDirOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDocuments(b *testing.B) {
	const n = 10_000
	b.Run("save", func(b *testing.B) {
		for b.Loop() {
			r, _ := newTestRepo(b)
			if _, err := saveDocuments(b.Context(), newSaver(b, r), docs(n)); err != nil {
				b.Fatal(err)
			}
		}
	})
	r, store := newTestRepo(b)
	s := newSaver(b, r)
	result, err := saveDocuments(b.Context(), s, docs(n))
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Run("walk", func(b *testing.B) {
		for b.Loop() {
			if err := reopen(b, store).WalkDocuments(b.Context(), result.Tree, func(string, []byte) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
