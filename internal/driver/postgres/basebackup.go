package postgres

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"lifeboat.dev/lifeboat/internal/driver"
)

// stall is how long a server may send nothing: at the beginning of a base backup it makes a checkpoint.
const stall = 10 * time.Minute

// Files of a base backup that mean something to us.
const (
	manifestFile  = "backup_manifest"
	walDir        = "pg_wal"
	tablespaceDir = "pg_tblspc"
)

// base is what a base backup came to.
type base struct {
	start, stop LSN
	timeline    uint32
	tablespaces int
}

// receive waits for one message of a server; what is in it is good until the next.
func receive(ctx context.Context, c *pgconn.PgConn, limit time.Duration) (pgproto3.BackendMessage, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the server sent nothing for %s", limit))
	defer cancel()
	msg, err := c.ReceiveMessage(bounded)
	if err != nil {
		if bounded.Err() != nil && ctx.Err() == nil {
			err = context.Cause(bounded)
		}
		return nil, err
	}
	if e, ok := msg.(*pgproto3.ErrorResponse); ok {
		return nil, pgconn.ErrorResponseToPgError(e)
	}
	return msg, nil
}

// send begins a command of the replication protocol.
func send(c *pgconn.PgConn, command string) error {
	c.Frontend().SendQuery(&pgproto3.Query{String: command})
	return c.Frontend().Flush()
}

// result reads the rows of one result up to its end.
func result(ctx context.Context, c *pgconn.PgConn) ([][]string, error) {
	var rows [][]string
	for {
		msg, err := receive(ctx, c, stall)
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			row := make([]string, len(m.Values))
			for i, v := range m.Values {
				row[i] = string(v)
			}
			rows = append(rows, row)
		case *pgproto3.CommandComplete:
			return rows, nil
		}
	}
}

// position reads a result of one row with a position and a timeline.
func position(ctx context.Context, c *pgconn.PgConn) (LSN, uint32, error) {
	rows, err := result(ctx, c)
	if err != nil {
		return 0, 0, err
	}
	if len(rows) != 1 || len(rows[0]) < 2 {
		return 0, 0, errors.New("the server did not say where in its log it is")
	}
	at, err := ParseLSN(rows[0][0])
	if err != nil {
		return 0, 0, err
	}
	timeline, err := strconv.ParseUint(rows[0][1], 10, 32)
	return at, uint32(timeline), err
}

// baseBackup streams a base backup into a tree, and makes sure that it is what the server read. What the
// server needs of its log to bring it to a consistent state is part of it. c is a connection for
// replication, and of no other use when that failed.
func baseBackup(ctx context.Context, c *pgconn.PgConn, tree driver.Tree, label string, mode fs.FileMode, said func(files int, size int64)) (base, error) {
	var b base
	command := fmt.Sprintf("BASE_BACKUP (LABEL %s, CHECKPOINT 'fast', WAL, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')", quote(label))
	if err := send(c, command); err != nil {
		return b, err
	}
	var err error
	if b.start, b.timeline, err = position(ctx, c); err != nil {
		return b, err
	}
	if _, err := result(ctx, c); err != nil { // the tablespaces: each archive says which it is
		return b, err
	}
	in := &archives{receive: func() (pgproto3.BackendMessage, error) { return receive(ctx, c, stall) }}
	files := &backupFiles{tree: tree, sums: map[string]sum{}, said: said}
	for {
		kind, location, err := in.next()
		if err != nil {
			return b, err
		}
		switch {
		case kind == archiveStarts && location.path != "":
			b.tablespaces++
			err = files.archive(ctx, in, path.Join(tablespaceDir, strings.TrimSuffix(location.name, ".tar")))
		case kind == archiveStarts:
			err = files.archive(ctx, in, "")
		case kind == manifestStarts:
			err = files.manifest(ctx, in)
		default: // the end
			if !files.verified {
				return b, errors.New("the base backup came without a manifest")
			}
			if b.stop, _, err = position(ctx, c); err == nil {
				err = files.tree.Put(ctx, driver.TreeEntry{Mode: fs.ModeDir | mode, ModTime: files.owner.ModTime, UID: uint32(files.owner.Uid), GID: uint32(files.owner.Gid)}, nil)
			}
			return b, err
		}
		if err != nil {
			return b, err
		}
	}
}

// Kinds of messages in the stream of a base backup.
const (
	archiveStarts  = 'n'
	manifestStarts = 'm'
	archiveData    = 'd'
)

// location is which archive begins.
type location struct{ name, path string }

// archives reads the stream of a base backup: archives one after the other, and the manifest.
type archives struct {
	receive func() (pgproto3.BackendMessage, error)
	rest    []byte // of the message that was received last
	kind    byte   // not 0: what begins next
	begins  location
	ended   bool
}

// next passes over what was not read, and says what begins; 0 at the end.
func (a *archives) next() (byte, location, error) {
	if _, err := io.Copy(io.Discard, a); err != nil {
		return 0, location{}, err
	}
	kind := a.kind
	a.kind = 0
	return kind, a.begins, nil
}

// Read reads to the end of what began last.
func (a *archives) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.ended || a.kind != 0 {
			return 0, io.EOF
		}
		msg, err := a.receive()
		if err != nil {
			return 0, err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			if err := a.message(m.Data); err != nil {
				return 0, err
			}
		case *pgproto3.CopyDone:
			a.ended = true
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

func (a *archives) message(data []byte) error {
	if len(data) == 0 {
		return errors.New("the server sent an empty message in a base backup")
	}
	switch data[0] {
	case archiveData:
		a.rest = data[1:]
	case archiveStarts:
		fields := strings.Split(string(data[1:]), "\x00")
		if len(fields) < 2 {
			return errors.New("the server began an archive without saying which")
		}
		a.kind, a.begins = archiveStarts, location{name: fields[0], path: fields[1]}
	case manifestStarts:
		a.kind = manifestStarts
	}
	return nil
}

// sum is what was read of a file.
type sum struct {
	size int64
	crc  uint32
}

// backupFiles puts the files of a base backup into a tree.
type backupFiles struct {
	tree     driver.Tree
	sums     map[string]sum // by path
	verified bool
	owner    *tar.Header // of the first file
	said     func(files int, size int64)
	size     int64
}

// archive puts the files of one archive below a directory. A tablespace becomes a directory of the data
// directory's own: where it is restored there may be no place like the one it was in.
func (f *backupFiles) archive(ctx context.Context, in io.Reader, below string) error {
	for files := tar.NewReader(in); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the base backup: %w", err)
		}
		name := path.Clean(h.Name)
		if h.Typeflag == tar.TypeSymlink && path.Dir(name) == tablespaceDir {
			continue
		}
		if err := f.put(ctx, path.Join(below, name), h, files); err != nil {
			return err
		}
	}
}

func (f *backupFiles) put(ctx context.Context, name string, h *tar.Header, content io.Reader) error {
	e := driver.TreeEntry{Path: name, Mode: fs.FileMode(h.Mode).Perm(), ModTime: h.ModTime, UID: uint32(h.Uid), GID: uint32(h.Gid), Link: h.Linkname}
	switch h.Typeflag {
	case tar.TypeDir:
		e.Mode |= fs.ModeDir
		return f.tree.Put(ctx, e, nil)
	case tar.TypeSymlink:
		e.Mode |= fs.ModeSymlink
		return f.tree.Put(ctx, e, nil)
	case tar.TypeReg:
	default:
		return fmt.Errorf("the base backup holds %s, which is neither a file nor a directory nor a link", name)
	}
	if f.owner == nil {
		f.owner = h
	}
	read := &summing{in: content}
	if err := f.tree.Put(ctx, e, read); err != nil {
		return err
	}
	f.sums[name] = sum{read.size, read.crc}
	f.size += read.size
	f.said(len(f.sums), f.size)
	return nil
}

// manifest reads the manifest, holds it against what was read, and puts it beside that.
func (f *backupFiles) manifest(ctx context.Context, in io.Reader) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("read the base backup's manifest: %w", err)
	}
	if err := verifyManifest(text, f.sums); err != nil {
		return err
	}
	f.verified = true
	h := &tar.Header{Typeflag: tar.TypeReg, Mode: 0o600, Uid: f.owner.Uid, Gid: f.owner.Gid, ModTime: f.owner.ModTime}
	return f.put(ctx, manifestFile, h, strings.NewReader(string(text)))
}

// summing counts what is read, and sums it up.
type summing struct {
	in   io.Reader
	size int64
	crc  uint32
}

// Read implements io.Reader.
func (s *summing) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	s.size += int64(n)
	s.crc = crc32.Update(s.crc, crc32.MakeTable(crc32.Castagnoli), p[:n])
	return n, err
}

// matches compares with a manifest's checksum, whose bytes lie as they do in the server's memory.
func (s sum) matches(checksum []byte) bool {
	return len(checksum) == 4 && (binary.LittleEndian.Uint32(checksum) == s.crc || binary.BigEndian.Uint32(checksum) == s.crc)
}
