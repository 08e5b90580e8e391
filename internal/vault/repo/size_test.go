package repo

import (
	"os"
	"testing"
	"unsafe"
)

func sizeOf(e ledgerEntry) uintptr { return unsafe.Sizeof(e) }

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func removeFile(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
