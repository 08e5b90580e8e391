package blob_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/blob/blobtest"
)

// behind is a store that is reached through a proxy, and the same one without.
type behind struct {
	proxy           *blobtest.Proxy
	through, beside blob.Store
}

// TestObjectStorages runs everything that needs the real servers, each case below a prefix of its own.
func TestObjectStorages(t *testing.T) {
	t.Parallel()
	s3, azure := blobtest.S3(t, []string{"vault"}), blobtest.Azure(t)
	azure.MakeContainer(t, "vault")
	for _, c := range []struct {
		name string
		test func(t *testing.T, b behind)
	}{
		{"LostAnswers", testLostAnswers},
		{"CounterThroughABadLine", testBadLine},
		{"WhatPasses", testWhatPasses},
		{"PatienceEnds", testPatienceEnds},
		{"RefusedDelete", testRefusedDelete},
	} {
		for name, server := range map[string]*blobtest.Server{"s3": s3, "azure": azure} {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				p := blobtest.NewProxy(t, server.Endpoint)
				through := strings.Replace(server.At("vault", c.name), server.Endpoint, p.Endpoint, 1)
				c.test(t, behind{p, open(t, through, server.CredentialsFile), open(t, server.At("vault", c.name), server.CredentialsFile)})
			})
		}
	}
	t.Run("Contract/s3", func(t *testing.T) { t.Parallel(); contract(t, s3, "vault") })
	t.Run("Contract/azure", func(t *testing.T) { t.Parallel(); contract(t, azure, "vault") })
	t.Run("WhatDoesNotPass", func(t *testing.T) { t.Parallel(); testWhatDoesNotPass(t, s3, azure) })
	t.Run("PlainHTTPWarns", func(t *testing.T) { t.Parallel(); testPlainHTTPWarns(t, s3) })
	t.Run("TrustedByFile", func(t *testing.T) { t.Parallel(); testTrustedByFile(t, s3) })
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func put(t *testing.T, s blob.Store, name, data string, cond blob.Condition) blob.Version {
	t.Helper()
	v, err := s.Put(t.Context(), name, []byte(data), cond)
	if err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
	return v
}

// testLostAnswers: a put whose answer is lost after the store has carried it out knows its own work
// again, and never takes somebody else's for its own.
func testLostAnswers(t *testing.T, b behind) {
	lose := func(before func()) {
		b.proxy.Decide(blobtest.Times(1, blobtest.Method(http.MethodPut), blobtest.Fault{Lose: true, Before: before}))
	}
	read := func(name string) (string, blob.Version) {
		t.Helper()
		o, err := b.beside.Get(t.Context(), name, blob.Range{})
		if err != nil {
			t.Fatal(err)
		}
		return string(o.Data), o.Version
	}

	lose(nil)
	v1 := put(t, b.through, "once", "mine", blob.IfAbsent())
	if data, v := read("once"); data != "mine" || v != v1 || b.proxy.Requests() < 2 {
		t.Errorf("create: %q at %s, returned %s, %d requests", data, v, v1, b.proxy.Requests())
	}
	lose(nil)
	v2 := put(t, b.through, "once", "mine again", blob.IfVersion(v1))
	if data, v := read("once"); data != "mine again" || v != v2 {
		t.Errorf("swap: %q at %s, returned %s", data, v, v2)
	}

	// Somebody else was there before: their content may even be the same.
	put(t, b.beside, "taken", "same", blob.IfAbsent())
	lose(nil)
	_, err := b.through.Put(t.Context(), "taken", []byte("same"), blob.IfAbsent())
	wantErr(t, err, blob.ErrExists)
	v3 := put(t, b.beside, "once", "theirs", blob.IfVersion(v2))
	lose(nil)
	_, err = b.through.Put(t.Context(), "once", []byte("late"), blob.IfVersion(v2))
	wantErr(t, err, blob.ErrStale)

	// Ours was made, and replaced before we could ask: neither yes nor no would be true.
	lose(func() {
		_, v := read("once")
		put(t, b.beside, "once", "theirs upon ours", blob.IfVersion(v))
	})
	_, err = b.through.Put(t.Context(), "once", []byte("ours"), blob.IfVersion(v3))
	wantErr(t, err, blob.ErrUncertain)
	lose(func() {
		_, v := read("new")
		put(t, b.beside, "new", "theirs upon ours", blob.IfVersion(v))
	})
	_, err = b.through.Put(t.Context(), "new", []byte("ours"), blob.IfAbsent())
	wantErr(t, err, blob.ErrUncertain)
}

// testBadLine: a fifth of all answers are lost, and still every increment counts once.
func testBadLine(t *testing.T, b behind) {
	put(t, b.beside, "counter", "0", blob.IfAbsent())
	var n atomic.Int64
	b.proxy.Decide(func(*http.Request) *blobtest.Fault {
		switch n.Add(1) % 10 {
		case 3:
			return &blobtest.Fault{Lose: true}
		case 7:
			return &blobtest.Fault{Status: http.StatusServiceUnavailable, Body: slowDown}
		}
		return nil
	})
	const workers, each = 6, 10
	var uncertain atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				if err := increment(t.Context(), b.through, &uncertain); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	o, err := b.beside.Get(t.Context(), "counter", blob.Range{})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := strconv.Atoi(string(o.Data))
	// A put of unknown outcome was repeated, so that it may count twice; nothing else may.
	if got < workers*each || got > workers*each+int(uncertain.Load()) {
		t.Errorf("counted %d of %d; %d puts of unknown outcome", got, workers*each, uncertain.Load())
	}
}

func increment(ctx context.Context, s blob.Store, uncertain *atomic.Int64) error {
	for {
		o, err := s.Get(ctx, "counter", blob.Range{})
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(o.Data))
		if err != nil {
			return fmt.Errorf("counter holds %q", o.Data)
		}
		_, err = s.Put(ctx, "counter", []byte(strconv.Itoa(n+1)), blob.IfVersion(o.Version))
		switch {
		case errors.Is(err, blob.ErrUncertain):
			uncertain.Add(1)
		case !errors.Is(err, blob.ErrStale):
			return err
		}
	}
}

const slowDown = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>`

func every(*http.Request) bool { return true }

// testWhatPasses: a storm of refusals, answers that break off, and an answer that hangs are borne.
func testWhatPasses(t *testing.T, b behind) {
	data := strings.Repeat("0123456789", 20_000)
	put(t, b.beside, "a", data, blob.Condition{})
	for name, fault := range map[string]blobtest.Fault{
		"storm": {Status: http.StatusServiceUnavailable, Body: slowDown}, "busy": {Status: http.StatusTooManyRequests},
		"gateway": {Status: http.StatusBadGateway, Body: "<html>"}, "half": {Half: true}, "lost": {Lose: true},
	} {
		b.proxy.Decide(blobtest.Times(3, every, fault))
		o, err := b.through.Get(t.Context(), "a", blob.Range{})
		if err != nil || string(o.Data) != data {
			t.Errorf("%s: %d bytes, %v", name, len(o.Data), err)
		}
		b.proxy.Decide(blobtest.Times(3, every, fault))
		n := 0
		for _, err := range b.through.List(t.Context(), "") {
			if n++; err != nil {
				t.Errorf("%s: list: %v", name, err)
			}
		}
		if n != 1 {
			t.Errorf("%s: listed %d", name, n)
		}
	}
	// The first try is given up soon, not with the caller's patience.
	b.proxy.Decide(blobtest.Times(1, every, blobtest.Fault{Delay: time.Minute}))
	began := time.Now()
	if _, err := b.through.Stat(t.Context(), "a"); err != nil || time.Since(began) > 40*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// testPatienceEnds: what does not pass ends with the context, and says what it was.
func testPatienceEnds(t *testing.T, b behind) {
	b.proxy.Decide(func(*http.Request) *blobtest.Fault {
		return &blobtest.Fault{Status: http.StatusServiceUnavailable, Body: slowDown}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := b.through.Get(ctx, "a", blob.Range{})
	wantErr(t, err, context.DeadlineExceeded)
	wantErr(t, err, blob.ErrUnreachable)
	if tried := b.proxy.Requests(); tried < 3 || tried > 20 || time.Since(began) > 10*time.Second {
		t.Errorf("%d tries in %v", tried, time.Since(began))
	}
	if errors.Is(err, blob.ErrNotFound) {
		t.Error("an unreachable store says that the object is not there")
	}
}

// testWhatDoesNotPass: each mistake is told by name, at once.
func testWhatDoesNotPass(t *testing.T, s3, azure *blobtest.Server) {
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "credentials")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	skewed := func(endpoint, code string) *blobtest.Proxy {
		p := blobtest.NewProxy(t, endpoint)
		p.Decide(func(*http.Request) *blobtest.Fault {
			return &blobtest.Fault{Status: http.StatusForbidden, Header: http.Header{
				"Date": {time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)}, "X-Ms-Error-Code": {code},
			}, Body: "<Error><Code>" + code + "</Code><Message>The difference between the request time and the current time is too large.</Message></Error>"}
		})
		return p
	}
	answering := func(endpoint string, f blobtest.Fault) *blobtest.Proxy {
		p := blobtest.NewProxy(t, endpoint)
		p.Decide(func(*http.Request) *blobtest.Fault { return &f })
		return p
	}
	s3Says := func(status int, body string) string {
		return blobtest.S3Location(answering(s3.Endpoint, blobtest.Fault{Status: status, Body: "<Error>" + body + "</Error>"}).Endpoint, "vault", "p")
	}
	azureSays := func(status int, code, body string) string {
		return blobtest.AzureLocation(answering(azure.Endpoint, blobtest.Fault{Status: status, Header: http.Header{"X-Ms-Error-Code": {code}}, Body: body}).Endpoint, "vault", "p")
	}
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(untrusted.Close)
	open := httpFile(t, s3.CredentialsFile)
	for _, c := range []struct {
		name, location, credentials string
		want                        error
		says                        string
	}{
		{"s3: missing bucket", s3.At("absent", "p"), s3.CredentialsFile, blob.ErrNoBucket, "absent"},
		{"s3: unknown key", s3.At("vault", "p"), file("[default]\naws_access_key_id = nobody\naws_secret_access_key = x\n"), blob.ErrCredentials, "access key"},
		{"s3: wrong secret", s3.At("vault", "p"), file("[default]\naws_access_key_id = " + blobtest.S3Access + "\naws_secret_access_key = x\n"), blob.ErrCredentials, "SignatureDoesNotMatch"},
		{"s3: no such file", s3.At("vault", "p"), "/absent/credentials", blob.ErrCredentials, "/absent/credentials"},
		{"s3: file of another kind", s3.At("vault", "p"), file("hello"), blob.ErrCredentials, "aws_access_key_id"},
		{"s3: file open to all", s3.At("vault", "p"), open, blob.ErrCredentials, "chmod 600"},
		{"s3: clock", blobtest.S3Location(skewed(s3.Endpoint, "RequestTimeTooSkewed").Endpoint, "vault", "p"), s3.CredentialsFile, blob.ErrClock, "ahead of"},
		{"s3: region", s3Says(400, "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region>"), s3.CredentialsFile, blob.ErrRegion, "eu-west-1"},
		{"s3: wrong region of a real server", strings.Replace(s3.At("vault", "p"), "?", "?region=mars&", 1), s3.CredentialsFile, blob.ErrRegion, "region"},
		{"s3: expired", s3Says(400, "<Code>ExpiredToken</Code><Message>The provided token has expired.</Message>"), s3.CredentialsFile, blob.ErrExpired, "expired"},
		{"s3: no permission", s3Says(403, "<Code>AccessDenied</Code><Message>Access Denied</Message>"), s3.CredentialsFile, blob.ErrDenied, "Access Denied"},
		{"s3: nobody there", blobtest.S3Location(blobtest.Closed(t), "vault", "p"), s3.CredentialsFile, blob.ErrUnreachable, "refused"},
		{"s3: no such name", "s3://vault?endpoint=https://absent.invalid", s3.CredentialsFile, blob.ErrUnreachable, "absent.invalid"},
		{"s3: untrusted", blobtest.S3Location(untrusted.URL, "vault", "p"), s3.CredentialsFile, blob.ErrTLS, "unknown authority"},
		{"s3: TLS to a server without", strings.Replace(s3.At("vault", "p"), "http://", "https://", 1), s3.CredentialsFile, blob.ErrTLS, ""},
		{"azure: missing container", azure.At("absent", "p"), azure.CredentialsFile, blob.ErrNoBucket, "absent"},
		{"azure: wrong key", azure.At("vault", "p"), file("c29tZSBvdGhlciBrZXk="), blob.ErrCredentials, "403"},
		{"azure: file of another kind", azure.At("vault", "p"), file("hello world"), blob.ErrCredentials, "SAS"},
		{"azure: clock", blobtest.AzureLocation(skewed(azure.Endpoint, "AuthenticationFailed").Endpoint, "vault", "p"), azure.CredentialsFile, blob.ErrClock, "ahead of"},
		{"azure: expired", azureSays(403, "AuthenticationFailed", "Signature not valid in the specified time frame"), azure.CredentialsFile, blob.ErrExpired, ""},
		{"azure: no permission", azureSays(403, "AuthorizationPermissionMismatch", ""), azure.CredentialsFile, blob.ErrDenied, "AuthorizationPermissionMismatch"},
		{"azure: nobody there", blobtest.AzureLocation(blobtest.Closed(t), "vault", "p"), azure.CredentialsFile, blob.ErrUnreachable, "refused"},
		{"azure: untrusted", blobtest.AzureLocation(untrusted.URL, "vault", "p"), azure.CredentialsFile, blob.ErrTLS, "unknown authority"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			_, err := blob.Open(t.Context(), c.location, blob.Options{CredentialsFile: c.credentials})
			wantErr(t, err, c.want)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v does not say %q", err, c.says)
			}
			for _, secret := range []string{blobtest.S3Secret, blobtest.AzureKey, "sig="} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("the error holds a secret: %v", err)
				}
			}
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("it took %v to say so", took)
			}
		})
	}
}

// httpFile copies a file so that everybody may read it.
func httpFile(t *testing.T, from string) string {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "open")
	if err := errors.Join(os.WriteFile(path, raw, 0o600), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBucketGone: a bucket that is deleted is not one without objects.
func TestBucketGone(t *testing.T) {
	t.Parallel()
	server := blobtest.S3(t, []string{"vault"})
	s := open(t, server.At("vault", "p"), server.CredentialsFile)
	if err := server.Client(t).RemoveBucket(t.Context(), "vault"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get(t.Context(), "a", blob.Range{})
	wantErr(t, err, blob.ErrNoBucket)
	_, err = s.Stat(t.Context(), "a")
	wantErr(t, err, blob.ErrNoBucket)
	for _, err := range s.List(t.Context(), "") {
		wantErr(t, err, blob.ErrNoBucket)
	}
	_, err = s.Put(t.Context(), "a", nil, blob.IfAbsent())
	wantErr(t, err, blob.ErrNoBucket)
	wantErr(t, s.Delete(t.Context(), "a"), blob.ErrNoBucket)
}

// TestRetention: under object lock a delete is refused with the time, or leaves a marker where the bucket
// keeps versions; records are replaced all the same.
func TestRetention(t *testing.T) {
	t.Parallel()
	versions := filepath.Join(t.TempDir(), "versions")
	if err := os.Mkdir(versions, 0o755); err != nil {
		t.Fatal(err)
	}
	server := blobtest.S3(t, nil, "--versioning-dir", versions)
	server.MakeBucket(t, "vault", true)
	governance, days, unit := minio.Governance, uint(3), minio.Days
	if err := server.Client(t).SetBucketObjectLockConfig(t.Context(), "vault", &governance, &days, &unit); err != nil {
		t.Fatal(err)
	}
	var warned []string
	s, err := blob.Create(t.Context(), server.At("vault", "p"), blob.Options{CredentialsFile: server.CredentialsFile, Warn: func(f string, a ...interface{}) {
		warned = append(warned, fmt.Sprintf(f, a...))
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(warned, "\n"); !strings.Contains(got, "locks every object for 3 days") {
		t.Errorf("warned %q", got)
	}
	v := put(t, s, "record", "1", blob.IfAbsent())
	v = put(t, s, "record", "2", blob.IfVersion(v))
	if _, err := s.Put(t.Context(), "record", []byte("3"), blob.IfAbsent()); !errors.Is(err, blob.ErrExists) {
		t.Error(err)
	}
	put(t, s, "record", "3", blob.IfVersion(v))
	if err := s.Delete(t.Context(), "record"); err != nil && !errors.Is(err, blob.ErrRetained) {
		t.Error(err)
	}
}

// testRefusedDelete: the refusal of a lock has a name of its own, and the time where it can be asked for.
func testRefusedDelete(t *testing.T, b behind) {
	until := time.Now().Add(72 * time.Hour).UTC().Truncate(time.Second)
	put(t, b.beside, "a", "x", blob.Condition{})
	b.proxy.Decide(func(r *http.Request) *blobtest.Fault {
		switch {
		case r.Method == http.MethodDelete:
			return &blobtest.Fault{Status: http.StatusForbidden, Header: http.Header{"X-Ms-Error-Code": {"BlobImmutableDueToPolicy"}},
				Body: "<Error><Code>AccessDenied</Code><Message>Access Denied because object protected by object lock.</Message></Error>"}
		case r.URL.Query().Has("retention"):
			return &blobtest.Fault{Status: http.StatusOK, Body: "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>" + until.Format(time.RFC3339) + "</RetainUntilDate></Retention>"}
		case r.Method == http.MethodHead:
			return &blobtest.Fault{Status: http.StatusOK, Header: http.Header{"Etag": {`"1"`}, "X-Ms-Immutability-Policy-Until-Date": {until.Format(http.TimeFormat)}}}
		}
		return nil
	})
	err := b.through.Delete(t.Context(), "a")
	wantErr(t, err, blob.ErrRetained)
	var retained *blob.RetainedError
	if !errors.As(err, &retained) || !retained.Until.Equal(until) {
		t.Errorf("%v, want until %v", err, until)
	}
}

// forgetful ignores conditions, as some storages do.
type forgetful struct {
	blob.Store
	absent, version bool // which it ignores
}

func (f forgetful) Put(ctx context.Context, name string, data []byte, cond blob.Condition) (blob.Version, error) {
	if cond.Absent() && f.absent || cond.Version() != "" && f.version {
		cond = blob.Condition{}
	}
	return f.Store.Put(ctx, name, data, cond)
}

// TestVerify refuses a storage on which single ownership could not rest.
func TestVerify(t *testing.T) {
	t.Parallel()
	m := blob.NewMem()
	if err := blob.Verify(t.Context(), m); err != nil {
		t.Error(err)
	}
	for info := range m.List(t.Context(), "") {
		t.Errorf("left %s", info.Name)
	}
	wantErr(t, blob.Verify(t.Context(), forgetful{Store: m, absent: true}), blob.ErrConditions)
	wantErr(t, blob.Verify(t.Context(), forgetful{Store: m, version: true}), blob.ErrConditions)
}

// testPlainHTTPWarns: beyond this machine, a location without TLS is pointed out.
func testPlainHTTPWarns(t *testing.T, server *blobtest.Server) {
	warned := 0
	o := blob.Options{CredentialsFile: server.CredentialsFile, Warn: func(string, ...interface{}) { warned++ }}
	if _, err := blob.Open(t.Context(), server.At("vault", ""), o); err != nil || warned != 0 {
		t.Errorf("loopback: %d warnings, %v", warned, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := blob.Open(ctx, "s3://vault?endpoint=http://192.0.2.1:9", o); err == nil || warned != 1 {
		t.Errorf("elsewhere: %d warnings, %v", warned, err)
	}
}

// testTrustedByFile: a private endpoint is trusted by the CA file alone.
func testTrustedByFile(t *testing.T, server *blobtest.Server) {
	p := blobtest.NewProxy(t, server.Endpoint)
	secure := httptest.NewTLSServer(p)
	t.Cleanup(secure.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, blobtest.PEM(secure.Certificate()), 0o600); err != nil {
		t.Fatal(err)
	}
	o := blob.Options{CredentialsFile: server.CredentialsFile, CAFile: ca}
	s, err := blob.Open(t.Context(), blobtest.S3Location(secure.URL, "vault", "p"), o)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "x", blob.IfAbsent())
	o.CAFile = server.CredentialsFile
	_, err = blob.Open(t.Context(), blobtest.S3Location(secure.URL, "vault", "p"), o)
	wantErr(t, err, blob.ErrTLS)
}
