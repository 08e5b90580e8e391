package blob

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // a checksum on the way; nothing rests on it
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

// azure is a container of Azure Blob Storage.
type azure struct {
	client    *container.Client
	container string
	transport *transport
}

func newAzure(p place, o Options, t *transport) (*azure, error) {
	at := azureURL(p)
	opts := &container.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: &http.Client{Transport: t},
		Retry:     policy.RetryOptions{MaxRetries: -1}, // remote repeats
		Telemetry: policy.TelemetryOptions{ApplicationID: "lifeboat"},
	}}
	client, err := azureClient(p, o, at, opts)
	if err != nil {
		return nil, err
	}
	return &azure{client: client, container: p.bucket, transport: t}, nil
}

// azureURL is the container's. An endpoint without a name of its own, such as a test server's, has the
// account in the path.
func azureURL(p place) string {
	if p.endpoint == nil {
		return "https://" + p.account + ".blob.core.windows.net/" + p.bucket
	}
	base := strings.TrimSuffix(p.endpoint.String(), "/")
	host := p.endpoint.Hostname()
	if (net.ParseIP(host) != nil || host == "localhost") && strings.Trim(p.endpoint.Path, "/") == "" {
		base += "/" + p.account
	}
	return base + "/" + p.bucket
}

// azureClient takes the named file alone, or Azure's default chain: environment, workload identity,
// managed identity, Azure's command line.
func azureClient(p place, o Options, at string, opts *container.ClientOptions) (*container.Client, error) {
	if o.CredentialsFile == "" {
		chain, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: policy.ClientOptions{Transport: opts.Transport}})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCredentials, err)
		}
		return wrongLocation(container.NewClient(at, chain, opts))
	}
	raw, err := readCredentials(o.CredentialsFile)
	if err != nil {
		return nil, err
	}
	key, sas := azureSecret(string(raw))
	if sas != "" {
		return wrongLocation(container.NewClientWithNoCredential(at+"?"+sas, opts))
	}
	if secret, err := base64.StdEncoding.DecodeString(key); err != nil || len(secret) == 0 {
		return nil, fmt.Errorf("%w: file %s holds neither a connection string, an account key nor a SAS token", ErrCredentials, o.CredentialsFile)
	}
	shared, err := container.NewSharedKeyCredential(p.account, key)
	if err != nil {
		return nil, fmt.Errorf("%w: the account key in %s cannot be used", ErrCredentials, o.CredentialsFile)
	}
	return wrongLocation(container.NewClientWithSharedKeyCredential(at, shared, opts))
}

func wrongLocation(c *container.Client, err error) (*container.Client, error) {
	if err != nil {
		return nil, fmt.Errorf("%w: it makes no valid address", ErrScheme) // err may hold a token
	}
	return c, nil
}

// azureSecret finds an account key or a SAS token in a file.
func azureSecret(text string) (key, sas string) {
	text = strings.TrimSpace(text)
	if strings.Contains(text, "sig=") && !strings.Contains(text, ";") {
		return "", strings.TrimPrefix(text, "?")
	}
	if !strings.Contains(text, ";") {
		return text, ""
	}
	for part := range strings.SplitSeq(text, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch strings.ToLower(name) {
		case "accountkey":
			key = value
		case "sharedaccesssignature":
			sas = strings.TrimPrefix(value, "?")
		}
	}
	return key, sas
}

func (a *azure) put(ctx context.Context, key string, data []byte, cond Condition, m mark) (Version, error) {
	sum := md5.Sum(data)
	opts := &blockblob.UploadOptions{Metadata: map[string]*string{markID: &m.id}, TransactionalValidation: azblob.TransferValidationTypeMD5(sum[:])}
	if m.was != "" {
		opts.Metadata[markWas] = &m.was
	}
	when := &azblob.ModifiedAccessConditions{}
	switch {
	case cond.absent:
		anything := azcore.ETagAny
		when.IfNoneMatch = &anything
	case cond.version != "":
		tag := azcore.ETag(`"` + string(cond.version) + `"`)
		when.IfMatch = &tag
	}
	opts.AccessConditions = &azblob.AccessConditions{ModifiedAccessConditions: when}
	resp, err := a.client.NewBlockBlobClient(key).Upload(ctx, streaming.NopCloser(bytes.NewReader(data)), opts)
	if err != nil {
		return "", err
	}
	return versionOfTag(resp.ETag)
}

func versionOfTag(tag *azcore.ETag) (Version, error) {
	if tag == nil || *tag == "" {
		return "", errNoVersion
	}
	return Version(strings.Trim(string(*tag), `"`)), nil
}

func (a *azure) get(ctx context.Context, key string, r Range) (Object, error) {
	resp, err := a.client.NewBlobClient(key).DownloadStream(ctx, &azblob.DownloadStreamOptions{Range: azblob.HTTPRange{Offset: r.Offset, Count: r.Length}})
	if err != nil {
		return Object{}, err
	}
	length := int64(-1)
	if resp.ContentLength != nil {
		length = *resp.ContentLength
	}
	data, err := readBody(resp.Body, length)
	if err != nil {
		return Object{}, err
	}
	v, err := versionOfTag(resp.ETag)
	return Object{Data: data, Version: v}, err
}

func (a *azure) head(ctx context.Context, key string) (header, error) {
	resp, err := a.client.NewBlobClient(key).GetProperties(ctx, nil)
	if err != nil {
		return header{}, err
	}
	m := markOf(func(yield func(name, value string)) {
		for name, value := range resp.Metadata {
			if value != nil {
				yield(name, *value)
			}
		}
	})
	v, err := versionOfTag(resp.ETag)
	if err == nil && resp.ContentLength == nil {
		err = errShort
	}
	if err != nil {
		return header{}, err
	}
	return header{size: *resp.ContentLength, version: v, mark: m}, nil
}

func (a *azure) page(ctx context.Context, prefix, after string) ([]Info, string, error) {
	opts := &container.ListBlobsFlatOptions{Prefix: &prefix}
	if after != "" {
		opts.Marker = &after
	}
	resp, err := a.client.NewListBlobsFlatPager(opts).NextPage(ctx)
	if err != nil {
		return nil, "", err
	}
	var found []Info
	if resp.Segment != nil {
		for _, item := range resp.Segment.BlobItems {
			if item.Name == nil || item.Properties == nil || item.Properties.ContentLength == nil {
				return nil, "", errShort
			}
			found = append(found, Info{Name: *item.Name, Size: *item.Properties.ContentLength})
		}
	}
	next := ""
	if resp.NextMarker != nil {
		next = *resp.NextMarker
	}
	return found, next, nil
}

func (a *azure) remove(ctx context.Context, key string) error {
	_, err := a.client.NewBlobClient(key).Delete(ctx, nil)
	return err
}

func (a *azure) retention(ctx context.Context, key string) (Retention, error) {
	if key == "" {
		resp, err := a.client.GetProperties(ctx, nil)
		if err != nil {
			return Retention{}, err
		}
		is := func(b *bool) bool { return b != nil && *b }
		return Retention{Lock: is(resp.HasImmutabilityPolicy) || is(resp.HasLegalHold) || is(resp.IsImmutableStorageWithVersioningEnabled)}, nil
	}
	resp, err := a.client.NewBlobClient(key).GetProperties(ctx, nil)
	if err != nil || resp.ImmutabilityPolicyExpiresOn == nil {
		return Retention{}, err
	}
	return Retention{Lock: true, Until: *resp.ImmutabilityPolicyExpiresOn}, nil
}

// skewAllowed is what Azure bears of a difference between clocks, less a minute.
const skewAllowed = 14 * time.Minute

func (a *azure) judge(err error) fault {
	var e *azcore.ResponseError
	if !errors.As(err, &e) {
		var refused *azidentity.AuthenticationFailedError
		if text := err.Error(); errors.As(err, &refused) || strings.Contains(text, "DefaultAzureCredential") || strings.Contains(text, "authenticated requests are not permitted for non TLS") {
			first, _, _ := strings.Cut(text, "\n")
			return fault{err: fmt.Errorf("%w: %s", ErrCredentials, first)}
		}
		return faultOf(err)
	}
	words := fmt.Sprintf("%d %s", e.StatusCode, e.ErrorCode)
	switch bloberror.Code(e.ErrorCode) {
	case bloberror.ConditionNotMet, bloberror.BlobAlreadyExists:
		return fault{err: errCondition}
	case bloberror.BlobNotFound, bloberror.ResourceNotFound:
		return fault{err: ErrNotFound}
	case bloberror.InvalidRange:
		return fault{err: ErrRange}
	case bloberror.ContainerNotFound, bloberror.ContainerDisabled:
		return fault{err: fmt.Errorf("%w: container %s", ErrNoBucket, a.container)}
	case bloberror.ContainerBeingDeleted:
		return fault{err: fmt.Errorf("%w: container %s is being deleted", ErrNoBucket, a.container)}
	case bloberror.BlobImmutableDueToPolicy, "BlobImmutableDueToLegalHold":
		return fault{err: &RetainedError{}}
	case bloberror.AuthenticationFailed, bloberror.InvalidAuthenticationInfo, bloberror.NoAuthenticationInformation:
		return a.unauthenticated(err, words)
	case bloberror.ConditionHeadersNotSupported:
		return fault{err: fmt.Errorf("%w: %s", ErrConditions, words)}
	case bloberror.MD5Mismatch:
		return fault{err: fmt.Errorf("%w: %s", ErrUnreachable, words), again: true, applied: true}
	}
	if strings.Contains(err.Error(), "failed to authenticate") {
		return a.unauthenticated(err, words)
	}
	return byStatus(e.StatusCode, e.ErrorCode, words, errors.New(words))
}

func (a *azure) unauthenticated(err error, words string) fault {
	if skew := a.transport.clockError(); skew.Ahead.Abs() > skewAllowed {
		return fault{err: skew}
	}
	if strings.Contains(err.Error(), "Signature not valid in the specified time frame") {
		return fault{err: fmt.Errorf("%w: %s", ErrExpired, words)}
	}
	return fault{err: fmt.Errorf("%w: %s", ErrCredentials, words)}
}
