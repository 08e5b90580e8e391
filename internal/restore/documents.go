package restore

import (
	"context"
	"fmt"
	"runtime"
	"slices"

	"github.com/klauspost/compress/zstd"
)

const (
	// slabSize is what compressed documents share an allocation of: one each would cost more than it holds.
	slabSize = 1 << 20
	// largeDocument is the size from which on a document is not kept, where its source can give it again.
	largeDocument = 32 << 10
	// sampleSize is how much is looked at before the dictionary is made.
	sampleSize = 2 << 20
	// dictionarySize bounds the dictionary. Documents of a kind are alike in most of what is not their body.
	dictionarySize = 64 << 10
	// dictionaryPerKind is how many documents of a kind are in it.
	dictionaryPerKind = 4
)

// Reader is what a Source may be besides: it gives one document again. Large ones are then not kept in
// memory, but read each time they are needed.
type Reader interface {
	Read(ctx context.Context, path string) ([]byte, error)
}

// documents keeps the documents of a checkpoint in little room: each compressed by itself, so that any of
// them can be had at any time, against a dictionary of what they have in common.
type documents struct {
	reader  Reader // nil: everything is kept
	slabs   [][]byte
	large   []string // paths
	decoder *zstd.Decoder

	// While it is filled:
	encoder *zstd.Encoder
	scratch []byte
	sample  []sampled
	sampled int
}

// reference finds a document again.
type reference struct {
	slab   int32 // notKept: at is an index of large
	at     int32
	packed int32
	size   int32 // of the document itself
}

const notKept = -1

// sampled is a document that waits for the dictionary.
type sampled struct {
	kind string
	doc  []byte
	ref  *reference
}

func newDocuments(source Source) *documents {
	reader, _ := source.(Reader)
	return &documents{reader: reader}
}

// add takes a document in, and a copy of what it keeps of it. ref is filled in now or, at the latest, by
// seal, and must stay where it is until then.
func (d *documents) add(kind, path string, doc []byte, ref *reference) error {
	ref.size = int32(len(doc)) //nolint:gosec // an API server takes 3 MiB at most
	switch {
	case d.reader != nil && len(doc) >= largeDocument:
		ref.slab, ref.at = notKept, int32(len(d.large)) //nolint:gosec // as above
		d.large = append(d.large, path)
	case d.encoder != nil:
		return d.keep(doc, ref)
	default:
		d.sample = append(d.sample, sampled{kind, slices.Clone(doc), ref})
		if d.sampled += len(doc); d.sampled >= sampleSize {
			return d.train()
		}
	}
	return nil
}

// seal ends the filling.
func (d *documents) seal() error {
	if d.encoder == nil {
		if err := d.train(); err != nil {
			return err
		}
	}
	d.encoder, d.scratch = nil, nil
	return nil
}

// train makes the dictionary of some documents of each kind, the most frequent kinds last, where it costs
// least to point to them; then it takes in what has waited for it.
func (d *documents) train() error {
	kinds := map[string][][]byte{}
	for _, s := range d.sample {
		if len(s.doc) <= dictionarySize/dictionaryPerKind/4 {
			kinds[s.kind] = append(kinds[s.kind], s.doc)
		}
	}
	names := make([]string, 0, len(kinds))
	for kind := range kinds {
		names = append(names, kind)
	}
	slices.SortFunc(names, func(a, b string) int { return len(kinds[b]) - len(kinds[a]) })
	var parts [][]byte
	room := dictionarySize
	for round := range dictionaryPerKind {
		for _, kind := range names {
			if docs := kinds[kind]; round < len(docs) && len(docs[round]) <= room {
				parts = append(parts, docs[round])
				room -= len(docs[round])
			}
		}
	}
	slices.Reverse(parts)
	if err := d.codec(slices.Concat(parts...)); err != nil {
		return err
	}
	for _, s := range d.sample {
		if err := d.keep(s.doc, s.ref); err != nil {
			return err
		}
	}
	d.sample = nil
	return nil
}

func (d *documents) codec(dictionary []byte) (err error) {
	const id = 1
	out := []zstd.EOption{zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false)}
	in := []zstd.DOption{zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true)}
	if len(dictionary) > 0 {
		out, in = append(out, zstd.WithEncoderDictRaw(id, dictionary)), append(in, zstd.WithDecoderDictRaw(id, dictionary))
	}
	if d.encoder, err = zstd.NewWriter(nil, out...); err != nil {
		return fmt.Errorf("preparing to compress documents: %w", err)
	}
	if d.decoder, err = zstd.NewReader(nil, in...); err != nil {
		return fmt.Errorf("preparing to decompress documents: %w", err)
	}
	return nil
}

func (d *documents) keep(doc []byte, ref *reference) error {
	d.scratch = d.encoder.EncodeAll(doc, d.scratch[:0])
	n := len(d.slabs)
	if n == 0 || len(d.slabs[n-1])+len(d.scratch) > cap(d.slabs[n-1]) {
		slab, err := newSlab(d, max(slabSize, len(d.scratch)))
		if err != nil {
			return err
		}
		d.slabs = append(d.slabs, slab)
		n++
	}
	slab := d.slabs[n-1]
	d.slabs[n-1] = append(slab, d.scratch...)
	ref.slab, ref.at, ref.packed = int32(n-1), int32(len(slab)), int32(len(d.scratch)) //nolint:gosec // a slab is a few MiB at most
	return nil
}

// get returns a document anew.
func (d *documents) get(ctx context.Context, ref reference) ([]byte, error) {
	if ref.slab == notKept {
		doc, err := d.reader.Read(ctx, d.large[ref.at])
		if err != nil {
			return nil, fmt.Errorf("reading %s of the checkpoint again: %w", d.large[ref.at], err)
		}
		return doc, nil
	}
	return d.unpack(ref)
}

// unpack returns a document that is kept.
func (d *documents) unpack(ref reference) ([]byte, error) {
	defer runtime.KeepAlive(d) // the slabs go with it
	doc, err := d.decoder.DecodeAll(d.slabs[ref.slab][ref.at:ref.at+ref.packed], make([]byte, 0, ref.size))
	if err != nil {
		return nil, fmt.Errorf("decompressing a document: %w", err)
	}
	return doc, nil
}
