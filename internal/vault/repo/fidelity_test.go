package repo

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// acl is an access list as the kernel has it: another user may read.
func acl(user uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, ^uint32(0)}, {2, 4, user}, {4, 4, ^uint32(0)}, {0x10, 4, ^uint32(0)}, {0x20, 0, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// makeEverything fills dir with one of each kind of thing that a file system can hold.
func makeEverything(t *testing.T, dir string) {
	t.Helper()
	makeSample(t, dir)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	must(os.Link(at("orders.log"), at("deep/orders.link")))
	must(os.Link(at("orders.log"), at("a-link-before-it")))
	must(unix.Mkfifo(at("fifo"), 0o640))
	must(os.WriteFile(at("with-acl"), []byte("x"), 0o640))
	must(unix.Setxattr(at("with-acl"), "system.posix_acl_access", acl(1234), 0))
	must(unix.Setxattr(at("deep"), "system.posix_acl_default", acl(4321), 0))
	must(unix.Setxattr(at("run.sh"), "user.note", []byte("\x00\xff"), 0))
	must(unix.Setxattr(at("deep/a"), "user.empty", nil, 0))
	must(os.Mkdir(at("sgid"), 0o755))
	must(os.Chmod(at("sgid"), 0o775|fs.ModeSetgid|fs.ModeSticky))
	sparse, err := os.Create(at("sparse"))
	must(err)
	must(sparse.Truncate(80 << 20))
	for _, offset := range []int64{0, 20<<20 + 5, 21 << 20, 60 << 20} {
		_, err = sparse.WriteAt(noise(uint64(offset), 700<<10), offset)
		must(err)
	}
	must(sparse.Close())
	hollow, err := os.Create(at("all-hole"))
	must(err)
	must(errors.Join(hollow.Truncate(20<<20+77), hollow.Close()))
	must(os.WriteFile(at("zeros"), make([]byte, 3<<20), 0o600))
	if os.Getuid() == 0 {
		must(unix.Mknod(at("chardev"), unix.S_IFCHR|0o620, int(unix.Mkdev(1, 3))))
		must(unix.Mknod(at("blockdev"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 200))))
		must(os.Lchown(at("fifo"), 77, 88))
		// cap_net_bind_service, as setcap writes it
		must(unix.Setxattr(at("small"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	}
	for i, name := range []string{"fifo", "sparse", "run.sh", "sgid", "."} {
		ts := unix.NsecToTimespec(time.Date(1999, 1, 2, 3, 4, i, 123_456_789, time.UTC).UnixNano())
		must(unix.UtimesNanoAt(unix.AT_FDCWD, at(name), []unix.Timespec{ts, ts}, 0))
	}
}

// describeAll lists everything that can be known of a directory, a line for each entry; which names are
// of one file too.
func describeAll(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	groups := map[uint64][]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%q %o %d:%d %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(data), sha256.Sum256(data))
			if st.Nlink > 1 {
				groups[st.Ino] = append(groups[st.Ino], rel)
			}
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			line += fmt.Sprintf(" -> %q", target)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %x", st.Rdev)
		}
		if k := st.Mode & unix.S_IFMT; k == unix.S_IFREG || k == unix.S_IFDIR {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			attrs, err := readXattrs(int(f.Fd()))
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			slices.SortFunc(attrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
			for _, a := range attrs {
				line += fmt.Sprintf(" %s=%x", a.Name, a.Value)
			}
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		lines = append(lines, fmt.Sprintf("one file: %q", g))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestEverythingBothWays: stock restic restores what we saved, and we restore what stock restic saved,
// with nothing that could be told apart.
func TestEverythingBothWays(t *testing.T) {
	t.Parallel()
	r, dir := newFileRepo(t)
	judge := newRestic(t, dir)
	source := t.TempDir()
	makeEverything(t, source)
	want := describeAll(t, source)

	result, id := saveDir(t, r, source, SaveDirOptions{})
	if len(result.Missing)+len(result.Changed) > 0 {
		t.Errorf("missing %q, changed %q", result.Missing, result.Changed)
	}
	judge.run("check", "--read-data")
	byRestic := t.TempDir()
	judge.run("restore", id.String(), "--target", byRestic)
	diff(t, describeAll(t, filepath.Join(byRestic, RootName)), want)

	byUs := t.TempDir()
	restored, err := r.RestoreDir(t.Context(), result.Tree, byUs, RestoreDirOptions{})
	if err != nil || len(restored.Warnings) > 0 {
		t.Fatal(err, restored.Warnings)
	}
	diff(t, describeAll(t, byUs), want)
	if restored.Files != result.Files || restored.Bytes != result.Bytes || restored.Dirs != result.Dirs {
		t.Errorf("saved %+v, restored %+v", result, restored)
	}
	for _, name := range []string{"sparse", "all-hole"} {
		if got, had := blocks(t, filepath.Join(byUs, name)), blocks(t, filepath.Join(source, name)); got > had+256<<10 {
			t.Errorf("%s takes %d bytes on disk, and took %d", name, got, had)
		}
	}

	judge.run("backup", source)
	all, err := r.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fromRestic := t.TempDir()
	if _, err := r.RestoreDir(t.Context(), all[len(all)-1].Tree, fromRestic, RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	diff(t, describeAll(t, filepath.Join(fromRestic, source)), want)
}

func TestHolesAreNotRead(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	f, err := os.Create(filepath.Join(source, "huge"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 30 // to read it would take minutes
	_, err = f.WriteAt([]byte("in the middle"), size/2)
	if err := errors.Join(err, f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	r, _ := newTestRepo(t)
	result, _ := saveDir(t, r, source, SaveDirOptions{})
	if result.Bytes != size {
		t.Errorf("%d bytes, want %d", result.Bytes, int64(size))
	}
	s := newSaver(t, r)
	again, err := s.SaveDir(t.Context(), source, SaveDirOptions{})
	if err != nil || again.Tree != result.Tree || s.Stats().NewBlobs != 0 {
		t.Errorf("once more: %d new blobs, %v", s.Stats().NewBlobs, err)
	}
}

func TestASocketIsRecordedAndNotRestored(t *testing.T) {
	t.Parallel()
	source, target := t.TempDir(), t.TempDir()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(source, "socket")}); err != nil {
		t.Fatal(err)
	}
	r, _ := newTestRepo(t)
	result, _ := saveDir(t, r, source, SaveDirOptions{})
	node, err := r.Find(t.Context(), result.Tree, RootName+"/socket")
	if err != nil || node.Type != SocketNode {
		t.Errorf("%+v, %v", node, err)
	}
	restored, err := r.RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{})
	if err != nil || len(restored.Warnings) != 1 || !strings.Contains(restored.Warnings[0], "socket") {
		t.Errorf("warnings %q, %v", restored.Warnings, err)
	}
}

// TestALargeDirectory has more entries than are worked on at once.
func TestALargeDirectory(t *testing.T) {
	t.Parallel()
	source, target := t.TempDir(), t.TempDir()
	for i := range 5000 {
		if err := os.WriteFile(filepath.Join(source, fmt.Sprintf("f%d", i)), fmt.Appendf(nil, "%d", i/2), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, store := newTestRepo(t)
	result, _ := saveDir(t, r, source, SaveDirOptions{})
	if _, err := reopen(t, store).RestoreDir(t.Context(), result.Tree, target, RestoreDirOptions{}); err != nil {
		t.Fatal(err)
	}
	diff(t, describeAll(t, target), describeAll(t, source))
}

// TestNodesAreWrittenAsJSONWouldBe compares with encoding/json, both ways.
func TestNodesAreWrittenAsJSONWouldBe(t *testing.T) {
	t.Parallel()
	id := hash([]byte("x"))
	at := time.Date(2024, 2, 29, 1, 2, 3, 4, time.UTC)
	var w nodeWriter
	var want []string
	for i, name := range []string{"\xff", "a&b<c>", "nl\n\"\\", "plain", "ä \u2028"} {
		for _, n := range []*Node{
			{Type: FileNode, Mode: 0o644, Size: 7, Links: 2, Inode: 1<<63 + 5, DeviceID: 9, Content: []ID{id, id}, User: "ü", Group: "g"},
			{Type: FileNode, Content: []ID{}},
			{Type: DirNode, Mode: fs.ModeDir | 0o755, Subtree: id, Xattrs: []Xattr{{"user.x", []byte{0, 255}}}},
			{Type: SymlinkNode, Mode: fs.ModeSymlink, LinkTarget: "\xfe/" + name},
			{Type: CharDeviceNode, Mode: fs.ModeDevice | fs.ModeCharDevice, Device: 259, Links: 1},
		} {
			n.Name = fmt.Sprintf("%d%s%s", i, n.Type, name) + strings.Repeat("z", len(n.Content))
			n.ModTime, n.AccessTime, n.ChangeTime, n.UID = at, at.Add(1), at.In(time.FixedZone("", 3600)), 12
			quoted := fmt.Sprintf("%q", n.Name)
			j := nodeJSON{Name: quoted[1 : len(quoted)-1], Type: n.Type, Mode: n.Mode, ModTime: n.ModTime, AccessTime: n.AccessTime,
				ChangeTime: n.ChangeTime, UID: n.UID, User: n.User, Group: n.Group, Inode: n.Inode, DeviceID: n.DeviceID, Size: n.Size,
				Links: n.Links, LinkTarget: n.LinkTarget, Xattrs: n.Xattrs, Device: n.Device, Content: n.Content}
			if n.LinkTarget != "" {
				j.LinkTargetRaw = []byte(n.LinkTarget)
			}
			if !n.Subtree.IsZero() {
				j.Subtree = &id
			}
			raw, err := json.Marshal(j)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(appendNode(nil, n)); got != string(raw) {
				t.Errorf("got  %s\nwant %s", got, raw)
			}
			want = append(want, string(raw))
			one, err := parseTree(id, []byte(treeStart+string(raw)+treeEnd))
			if err != nil || len(one.Nodes) != 1 {
				t.Fatalf("%s: %v", raw, err)
			}
			if back := string(appendNode(nil, one.Nodes[0])); back != string(raw) {
				t.Errorf("read and written again: %s\nwant %s", back, raw)
			}
		}
	}
	spaced := ` { "nodes" : [` + strings.Join(want, " ,\n") + "] , \"other\": 1 }"
	inRow := treeStart + strings.Join(want, " ,\n ") + "  ]}"
	for _, raw := range []string{spaced, inRow} {
		tree, err := parseTree(id, []byte(raw))
		if err != nil || len(tree.Nodes) != len(want) {
			t.Fatalf("%d nodes, %v", len(tree.Nodes), err)
		}
		for i, n := range tree.Nodes {
			if got := string(appendNode(nil, n)); got != want[i] {
				t.Errorf("got  %s\nwant %s", got, want[i])
			}
		}
	}
	for _, bad := range []string{"", "[]", treeStart, treeStart + `null]}`, treeStart + `{"name":"a"`, treeStart + `{"name":5}]}`} {
		if _, err := parseTree(id, []byte(bad)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := w.add(&Node{Name: "b"}); err != nil {
		t.Error(err)
	}
	if w.add(&Node{Name: "b"}) == nil || w.add(&Node{Name: "a"}) == nil {
		t.Error("nodes out of order are taken")
	}
}
