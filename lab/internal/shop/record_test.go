package shop

import (
	"strings"
	"testing"
	"time"
)

func logOf(t *testing.T, bodies ...body) []byte {
	t.Helper()
	var log []byte
	for _, b := range bodies {
		line, err := encodeRecord(b)
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, line...)
	}
	return log
}

func orders(from, to int64) body {
	var b body
	for n := from; n <= to; n++ {
		b.Orders = append(b.Orders, Order{ID: string(rune('a' + n)), Item: "x", Quantity: 1, Sequence: n, AcknowledgedAt: time.Unix(n, 0)})
	}
	return b
}

// Wherever a write was torn, all records before it are read and none of it.
func TestReplayTornAtEveryByte(t *testing.T) {
	t.Parallel()
	whole := logOf(t, orders(1, 2), orders(3, 3))
	last := logOf(t, orders(4, 6))
	for cut := range len(last) {
		torn := append(append([]byte{}, whole...), last[:cut]...)
		var seen int
		good, err := replay(torn, func(b body) error { seen += len(b.Orders); return nil })
		if err != nil || good != int64(len(whole)) || seen != 3 {
			t.Fatalf("cut at %d: good %d of %d, %d orders, error %v", cut, good, len(whole), seen, err)
		}
	}
}

func TestReplayDamage(t *testing.T) {
	t.Parallel()
	first, second := logOf(t, orders(1, 2)), logOf(t, orders(3, 4))
	for name, spoil := range map[string]func([]byte){
		"a flipped bit":  func(b []byte) { b[len(b)/2] ^= 1 },
		"zeros":          func(b []byte) { clear(b[10:30]) },
		"a lost newline": func(b []byte) { b[len(b)-1] = ' ' },
	} {
		log := append(append([]byte{}, first...), second...)
		spoil(log[:len(first)])
		_, err := replay(log, func(body) error { return nil })
		if name == "a lost newline" {
			// Both records became one line that is no record, at the end: indistinguishable from a torn write.
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s in a record with a good one behind it: error %v", name, err)
		}
	}
}
