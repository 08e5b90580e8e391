package drivertest

import (
	"fmt"
	"sync/atomic"
	"testing"

	"lifeboat.dev/lifeboat/internal/driver"
)

type memoryHarness struct {
	memory MemoryTraffic
	hosts  atomic.Int32
}

func (h *memoryHarness) Driver(*testing.T) driver.Traffic { return &h.memory }

func (h *memoryHarness) Host(*testing.T) string {
	return fmt.Sprintf("h%d.example.com", h.hosts.Add(1))
}

func (h *memoryHarness) Set(t *testing.T, host string, r driver.Record) {
	if err := h.memory.Set(host, r); err != nil {
		t.Fatal(err)
	}
}

func TestMemoryTrafficKeepsTheContract(t *testing.T) {
	t.Parallel()
	Traffic(t, &memoryHarness{})
}
