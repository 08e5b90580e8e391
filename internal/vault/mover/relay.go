package mover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

// relayStore is the orchestrator's store as a worker sees it: each call is a request over the stream.
type relayStore struct {
	client   *http.Client
	location string
}

var _ blob.Store = (*relayStore)(nil)

func (s *relayStore) Location() string { return s.location }

func (s *relayStore) Put(ctx context.Context, name string, data []byte, cond blob.Condition) (blob.Version, error) {
	if len(data) > maxObject {
		return "", fmt.Errorf("put %s: an object of %d bytes cannot be relayed", name, len(data))
	}
	header := http.Header{}
	if cond.Absent() {
		header.Set(headerAbsent, "true")
	} else if v := cond.Version(); v != "" {
		header.Set(headerVersion, string(v))
	}
	resp, err := s.do(ctx, http.MethodPut, objectPath, "name", name, header, data)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	return blob.Version(resp.Header.Get(headerVersion)), nil
}

func (s *relayStore) Get(ctx context.Context, name string, r blob.Range) (blob.Object, error) {
	header := http.Header{}
	if !r.Whole() {
		header.Set(headerRange, fmt.Sprintf("%d+%d", r.Offset, r.Length))
	}
	resp, err := s.do(ctx, http.MethodGet, objectPath, "name", name, header, nil)
	if err != nil {
		return blob.Object{}, err
	}
	defer resp.Body.Close()
	if resp.ContentLength < 0 || resp.ContentLength > maxObject {
		return blob.Object{}, fmt.Errorf("get %s: an answer of %d bytes cannot be relayed", name, resp.ContentLength)
	}
	data := make([]byte, resp.ContentLength)
	if _, err := io.ReadFull(resp.Body, data); err != nil {
		return blob.Object{}, broken(ctx, "get "+name, err)
	}
	return blob.Object{Data: data, Version: blob.Version(resp.Header.Get(headerVersion))}, nil
}

func (s *relayStore) Stat(ctx context.Context, name string) (blob.Info, error) {
	resp, err := s.do(ctx, http.MethodHead, objectPath, "name", name, nil, nil)
	if err != nil {
		return blob.Info{}, err
	}
	defer resp.Body.Close()
	size, err := strconv.ParseInt(resp.Header.Get(headerSize), 10, 64)
	if err != nil {
		return blob.Info{}, fmt.Errorf("stat %s: %w", name, err)
	}
	return blob.Info{Name: name, Size: size}, nil
}

func (s *relayStore) Delete(ctx context.Context, name string) error {
	resp, err := s.do(ctx, http.MethodDelete, objectPath, "name", name, nil, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (s *relayStore) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		resp, err := s.do(ctx, http.MethodGet, listPath, "prefix", prefix, nil, nil)
		if err != nil {
			yield(blob.Info{}, err)
			return
		}
		defer resp.Body.Close()
		in := json.NewDecoder(resp.Body)
		for {
			var item listItem
			err := in.Decode(&item)
			switch {
			case err != nil:
				yield(blob.Info{}, broken(ctx, "list "+prefix, err))
				return
			case item.Fault != nil:
				yield(blob.Info{}, item.Fault.err())
				return
			case item.End:
				return
			case item.Info == nil:
				yield(blob.Info{}, fmt.Errorf("list %s: an empty line", prefix))
				return
			case !yield(*item.Info, nil):
				return
			}
		}
	}
}

// do sends one request; an answer that is no success becomes the error that the real store returned.
func (s *relayStore) do(ctx context.Context, method, path, parameter, value string, header http.Header, body []byte) (*http.Response, error) {
	what := method + " " + value
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	u := "http://vault" + path + "?" + url.Values{parameter: {value}}.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, broken(ctx, what, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := strconv.Unquote(resp.Header.Get(headerFault))
	if err != nil {
		return nil, fmt.Errorf("%s: the orchestrator answered %s", what, resp.Status)
	}
	var f fault
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return nil, fmt.Errorf("%s: the orchestrator's error cannot be read: %w", what, err)
	}
	return nil, f.err()
}

// errStream says that the stream to the orchestrator is gone.
var errStream = errors.New("the stream to the orchestrator broke")

func broken(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	var e *url.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Errorf("%s: %w: %w", what, errStream, err)
}
