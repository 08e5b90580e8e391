package blob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// transport is the way to an object storage. It notes how far the store's clock is from ours, because a
// store that refuses a request for its date does not say so itself.
type transport struct {
	http.RoundTripper
	ahead atomic.Int64 // of our clock, in nanoseconds, at the last answer
}

// newTransport trusts the machine's certificates and those in a file.
func newTransport(caFile string) (*transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	t.MaxIdleConnsPerHost, t.MaxIdleConns = 64, 64
	t.DisableCompression = true // objects are what they are
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("%w: CA file: %w", ErrTLS, err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: CA file %s holds no certificate in PEM", ErrTLS, caFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &transport{RoundTripper: t}, nil
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		t.ahead.Store(int64(began.Add(time.Since(began) / 2).Sub(date)))
	}
	return resp, nil
}

// clockError is the difference that was seen last.
func (t *transport) clockError() *ClockError {
	return &ClockError{Ahead: time.Duration(t.ahead.Load())}
}

// fault is why a try failed, and what that means for another one.
type fault struct {
	err     error
	again   bool // it may pass
	applied bool // the store may have done what it was asked all the same
}

// faultOf judges what no store said: errors of the way to it.
func faultOf(err error) fault {
	var u *url.Error
	way := errors.As(err, &u) // no answer came
	if way {
		err = u.Err // its URL may hold a signature
	}
	var (
		verify *tls.CertificateVerificationError
		record tls.RecordHeaderError
		alert  tls.AlertError
		dns    *net.DNSError
	)
	switch {
	case errors.As(err, &verify):
		return fault{err: fmt.Errorf("%w: %w", ErrTLS, verify.Err)}
	case errors.As(err, &record), errors.As(err, &alert), errors.Is(err, http.ErrSchemeMismatch):
		return fault{err: fmt.Errorf("%w: %w", ErrTLS, err)}
	case errors.As(err, &dns):
		return fault{err: fmt.Errorf("%w: the name %s cannot be resolved: %s", ErrUnreachable, dns.Name, dns.Err), again: true}
	case errors.Is(err, syscall.ECONNREFUSED):
		return fault{err: fmt.Errorf("%w: %w", ErrUnreachable, err), again: true}
	case errors.Is(err, context.Canceled):
		return fault{err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return fault{err: fmt.Errorf("%w: no answer in time", ErrUnreachable), again: true, applied: true}
	}
	var broken net.Error
	if way || errors.As(err, &broken) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, errShort) {
		return fault{err: fmt.Errorf("%w: %w", ErrUnreachable, err), again: true, applied: true}
	}
	return fault{err: err}
}

// errShort: an answer ended before the length that it announced.
var errShort = errors.New("the answer broke off")

// readBody reads an answer of a known length, which is believed only as far as bytes arrive.
func readBody(body io.ReadCloser, length int64) ([]byte, error) {
	defer body.Close()
	const believed = 64 << 20
	data := make([]byte, 0, max(0, min(length, believed)))
	for {
		if len(data) == cap(data) {
			// One more byte tells whether the answer ends here, as it should.
			var one [1]byte
			n, err := body.Read(one[:])
			data = append(data, one[:n]...)
			if err != nil {
				return ended(data, length, err)
			}
			continue
		}
		n, err := body.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err != nil {
			return ended(data, length, err)
		}
	}
}

func ended(data []byte, length int64, err error) ([]byte, error) {
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if length >= 0 && int64(len(data)) != length {
		return nil, fmt.Errorf("%w after %d of %d bytes", errShort, len(data), length)
	}
	return data, nil
}

const maxCredentials = 1 << 16

// readCredentials reads a file of credentials, which nobody else may.
func readCredentials(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there is no file %s", ErrCredentials, path)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrCredentials, err)
	case info.Mode().Perm()&0o007 != 0:
		return nil, fmt.Errorf("%w: file %s can be read or written by every user (mode %#o): chmod 600", ErrCredentials, path, info.Mode().Perm())
	case !info.Mode().IsRegular() || info.Size() > maxCredentials:
		return nil, fmt.Errorf("%w: %s is not a file of credentials", ErrCredentials, path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	return raw, nil
}
