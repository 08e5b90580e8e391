package repo

import (
	"encoding/binary"
	"fmt"
)

// BlobType is what a blob holds.
type BlobType uint8

// The types.
const (
	DataBlob BlobType = 0
	TreeBlob BlobType = 1
)

func (t BlobType) String() string {
	if t == TreeBlob {
		return "tree"
	}
	return "data"
}

// place is where a blob is within a pack.
type place struct {
	Offset, Length uint32
	Plain          uint32 // length of the plaintext when it is compressed, else 0
}

// plainLength is the length of the blob's plaintext.
func (p place) plainLength() uint32 {
	if p.Plain != 0 {
		return p.Plain
	}
	return p.Length - overhead
}

// packedBlob is one entry of a pack's header.
type packedBlob struct {
	ID   ID
	Type BlobType
	place
}

const (
	headerEntry           = 1 + 4 + 32
	headerEntryCompressed = headerEntry + 4
	maxHeader             = 16 << 20
)

// compressedFlag in a header's type byte says that the blob is compressed.
const compressedFlag = 2

// packFile is a pack being filled.
type packFile struct {
	data  []byte
	blobs []packedBlob
}

// add appends a sealed blob.
func (p *packFile) add(id ID, t BlobType, sealed []byte, plain uint32) {
	if need := len(p.data) + len(sealed); need > cap(p.data) {
		// A pack that fills at all fills up: beyond a little, its whole room is made at once.
		size := max(2*cap(p.data), 64<<10)
		if need > 1<<20 {
			size = packRoom
		}
		p.data = append(make([]byte, 0, max(size, need)), p.data...)
	}
	p.blobs = append(p.blobs, packedBlob{ID: id, Type: t, place: place{Offset: uint32(len(p.data)), Length: uint32(len(sealed)), Plain: plain}})
	p.data = append(p.data, sealed...)
}

// finish appends the header and returns the pack's bytes.
func (p *packFile) finish(k *key) []byte {
	header := make([]byte, 0, len(p.blobs)*headerEntryCompressed)
	for _, b := range p.blobs {
		if b.Plain == 0 {
			header = append(header, byte(b.Type))
			header = binary.LittleEndian.AppendUint32(header, b.Length)
		} else {
			header = append(header, byte(b.Type)|compressedFlag)
			header = binary.LittleEndian.AppendUint32(header, b.Length)
			header = binary.LittleEndian.AppendUint32(header, b.Plain)
		}
		header = append(header, b.ID[:]...)
	}
	before := len(p.data)
	p.data = k.seal(p.data, header)
	return binary.LittleEndian.AppendUint32(p.data, uint32(len(p.data)-before))
}

// parseHeader reads the header of a pack in which it begins at end.
func parseHeader(k *key, sealed []byte, end int64) ([]packedBlob, error) {
	header, err := k.open(append([]byte{}, sealed...))
	if err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	var blobs []packedBlob
	offset := uint32(0)
	for len(header) > 0 {
		b := packedBlob{Type: BlobType(header[0] &^ compressedFlag)}
		size := headerEntry
		if header[0]&compressedFlag != 0 {
			size = headerEntryCompressed
		}
		if b.Type > TreeBlob || len(header) < size {
			return nil, fmt.Errorf("%w: header entry of type %d", ErrDamaged, header[0])
		}
		b.Offset, b.Length = offset, binary.LittleEndian.Uint32(header[1:])
		if size == headerEntryCompressed {
			b.Plain = binary.LittleEndian.Uint32(header[5:])
		}
		copy(b.ID[:], header[size-32:])
		if b.Length < overhead || b.Length > maxBlob || b.Plain > maxBlob || int64(offset)+int64(b.Length) > end {
			return nil, fmt.Errorf("%w: blob %s reaches over the pack's end", ErrDamaged, b.ID.short())
		}
		offset += b.Length
		blobs = append(blobs, b)
		header = header[size:]
	}
	if int64(offset) != end {
		return nil, fmt.Errorf("%w: blobs end at %d, header begins at %d", ErrDamaged, offset, end)
	}
	return blobs, nil
}

// packName is where a pack is stored.
func packName(id ID) string {
	s := id.String()
	return dataDir + s[:2] + "/" + s
}
