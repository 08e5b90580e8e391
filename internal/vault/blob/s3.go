package blob

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // a checksum on the way, which object lock demands; nothing rests on it
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// s3 is a bucket of Amazon S3 or of another storage with its interface.
type s3 struct {
	client    minio.Core
	bucket    string
	transport *transport
}

const awsEndpoint = "s3.amazonaws.com"

func newS3(p place, o Options, t *transport) (*s3, error) {
	creds, err := s3Credentials(o, t)
	if err != nil {
		return nil, err
	}
	opts := &minio.Options{Creds: creds, Secure: !p.plain(), Transport: t, Region: p.region, MaxRetries: 1}
	host := awsEndpoint
	if opts.Region == "" {
		opts.Region = os.Getenv("AWS_REGION")
	}
	if p.endpoint != nil {
		host = p.endpoint.Host
		if !strings.HasSuffix(p.endpoint.Hostname(), ".amazonaws.com") {
			opts.BucketLookup = minio.BucketLookupPath
			if opts.Region == "" {
				opts.Region = "us-east-1" // what most others call the only one that they have
			}
		}
	}
	client, err := minio.NewCore(host, opts)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrScheme, err)
	}
	client.SetAppInfo("lifeboat", "1")
	return &s3{client: *client, bucket: p.bucket, transport: t}, nil
}

// s3Credentials takes the named file alone, or the usual chain: environment, shared file, and what the
// platform gives (web identity, container, instance).
func s3Credentials(o Options, t *transport) (*credentials.Credentials, error) {
	if o.CredentialsFile != "" {
		if _, err := readCredentials(o.CredentialsFile); err != nil {
			return nil, err
		}
		c := credentials.New(&credentials.FileAWSCredentials{Filename: o.CredentialsFile, Profile: "default"})
		if v, err := c.GetWithContext(&credentials.CredContext{}); err != nil || v.AccessKeyID == "" {
			return nil, fmt.Errorf("%w: file %s has no profile [default] with aws_access_key_id", ErrCredentials, o.CredentialsFile)
		}
		return c, nil
	}
	platform := &http.Client{Transport: t.RoundTripper, Timeout: 3 * time.Second}
	c := credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Client: platform}})
	v, err := c.GetWithContext(&credentials.CredContext{Client: platform})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	if v.AccessKeyID == "" {
		return nil, fmt.Errorf("%w: found none in the environment (AWS_ACCESS_KEY_ID), in ~/.aws/credentials, or given by the platform", ErrCredentials)
	}
	return c, nil
}

func (s *s3) put(ctx context.Context, key string, data []byte, cond Condition, m mark) (Version, error) {
	opts := minio.PutObjectOptions{UserMetadata: map[string]string{markID: m.id}, ContentType: "application/octet-stream"}
	if m.was != "" {
		opts.UserMetadata[markWas] = m.was
	}
	switch {
	case cond.absent:
		opts.SetMatchETagExcept("*")
	case cond.version != "":
		opts.SetMatchETag(string(cond.version))
	}
	// A bucket under object lock demands the checksum; elsewhere it finds what was damaged on its way.
	sum, content := md5.Sum(data), sha256.Sum256(data)
	info, err := s.client.PutObject(ctx, s.bucket, key, bytes.NewReader(data), int64(len(data)),
		base64.StdEncoding.EncodeToString(sum[:]), hex.EncodeToString(content[:]), opts)
	if err == nil && info.ETag == "" {
		err = errNoVersion
	}
	return Version(info.ETag), err
}

// errNoVersion: without one nothing could be replaced on a condition.
var errNoVersion = fmt.Errorf("%w: it answers without an ETag", ErrConditions)

func (s *s3) get(ctx context.Context, key string, r Range) (Object, error) {
	var opts minio.GetObjectOptions
	if !r.Whole() {
		end := int64(0) // in this library: to the end
		if r.Length > 0 {
			end = r.Offset + r.Length - 1
		}
		switch {
		case r.Offset == 0 && end == 0: // one byte, which SetRange would take for the last one
			opts.Set("Range", "bytes=0-0")
		default:
			if err := opts.SetRange(r.Offset, end); err != nil {
				return Object{}, fmt.Errorf("%w: %w", ErrRange, err)
			}
		}
	}
	body, info, _, err := s.client.GetObject(ctx, s.bucket, key, opts)
	if err != nil {
		return Object{}, err
	}
	data, err := readBody(body, info.Size)
	return Object{Data: data, Version: Version(info.ETag)}, err
}

func (s *s3) head(ctx context.Context, key string) (header, error) {
	info, err := s.client.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
	if code(err) == minio.NoSuchKey {
		// An answer to HEAD has no body: only a GET tells a missing object from a missing bucket.
		body, _, _, gerr := s.client.GetObject(ctx, s.bucket, key, minio.GetObjectOptions{})
		if gerr == nil {
			return header{}, errors.Join(errAgain, body.Close())
		}
		return header{}, gerr
	}
	if err != nil {
		return header{}, err
	}
	m := markOf(func(yield func(name, value string)) {
		for name, value := range info.UserMetadata {
			yield(name, value)
		}
	})
	return header{size: info.Size, version: Version(info.ETag), mark: m}, nil
}

const pageSize = 1000

func (s *s3) page(ctx context.Context, prefix, after string) ([]Info, string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var found []Info
	for o := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, StartAfter: after, MaxKeys: pageSize}) {
		if o.Err != nil {
			return nil, "", o.Err
		}
		found = append(found, Info{Name: o.Key, Size: o.Size})
		if len(found) == pageSize {
			return found, o.Key, nil
		}
	}
	return found, "", ctx.Err() // the library ends silently when it is called off
}

func (s *s3) remove(ctx context.Context, key string) error {
	return s.client.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{})
}

func (s *s3) retention(ctx context.Context, key string) (Retention, error) {
	if key != "" {
		_, until, err := s.client.GetObjectRetention(ctx, s.bucket, key, "")
		if err != nil || until == nil {
			return Retention{}, err
		}
		return Retention{Lock: true, Until: *until}, nil
	}
	var r Retention
	versioning, err := s.client.GetBucketVersioning(ctx, s.bucket)
	r.Versions = err == nil && versioning.Enabled()
	lock, mode, n, unit, lockErr := s.client.GetObjectLockConfig(ctx, s.bucket)
	if lockErr != nil {
		return r, nil //nolint:nilerr // a bucket without the configuration says so by an error
	}
	r.Lock = lock == "Enabled"
	if mode != nil && n != nil && unit != nil {
		days := time.Duration(*n)
		if *unit == minio.Years {
			days *= 365
		}
		r.Default = days * 24 * time.Hour
	}
	return r, nil
}

func code(err error) string {
	var e minio.ErrorResponse
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func (s *s3) judge(err error) fault {
	var e minio.ErrorResponse
	if !errors.As(err, &e) {
		return faultOf(err)
	}
	said := func(kind error) fault { return fault{err: fmt.Errorf("%w: %s", kind, words(e))} }
	switch e.Code {
	case minio.PreconditionFailed:
		return fault{err: errCondition}
	case minio.NoSuchKey:
		return fault{err: ErrNotFound}
	case "InvalidRange":
		return fault{err: ErrRange}
	case "ConditionalRequestConflict", "OperationAborted": // another conditional write is under way
		return fault{err: errAgain, again: true}
	case minio.NoSuchBucket:
		return fault{err: fmt.Errorf("%w: %s", ErrNoBucket, s.bucket)}
	case "RequestTimeTooSkewed":
		return fault{err: s.transport.clockError()}
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthFailure", "InvalidClientTokenId", "XAdminUserNotFound":
		return said(ErrCredentials)
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		return said(ErrExpired)
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "InvalidRegion", "IllegalLocationConstraintException":
		return fault{err: &RegionError{Region: e.Region}}
	case "NotImplemented":
		return said(ErrConditions)
	case "ObjectLocked":
		return fault{err: &RetainedError{}}
	case "BadDigest", "IncompleteBody", "RequestTimeout", "RequestTimeoutException", "SlowDown", "Throttling", "ThrottlingException":
		return fault{err: fmt.Errorf("%w: %s", ErrUnreachable, words(e)), again: true, applied: true}
	}
	return byStatus(e.StatusCode, e.Message, words(e), err)
}

// byStatus judges an answer whose code says nothing in particular.
func byStatus(status int, message, words string, err error) fault {
	switch {
	case status == http.StatusPreconditionFailed:
		return fault{err: errCondition}
	case status == http.StatusForbidden && locked(message):
		return fault{err: &RetainedError{}}
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fault{err: fmt.Errorf("%w: %s", ErrDenied, words)}
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500:
		return fault{err: fmt.Errorf("%w: %s", ErrUnreachable, words), again: true, applied: true}
	case status != 0:
		return fault{err: errors.New(words)}
	}
	return faultOf(err)
}

// locked finds a refusal for retention among those that share the code AccessDenied.
func locked(message string) bool {
	message = strings.ToLower(message)
	for _, word := range []string{"object lock", "worm", "retention", "legal hold"} {
		if strings.Contains(message, word) {
			return true
		}
	}
	return false
}

func words(e minio.ErrorResponse) string {
	return strings.TrimSpace(fmt.Sprintf("%s (%d %s)", strings.TrimSuffix(strings.TrimSpace(e.Message), "."), e.StatusCode, e.Code))
}
