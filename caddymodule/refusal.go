package caddymodule

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"math"
	"net/http"
	"strconv"
	"time"
)

// addRetryAfter says when an exhausted pool serves again, if nothing else does.
func (sp *servedPool) addRetryAfter(h http.Header, key string) {
	if h.Get("Retry-After") != "" {
		return
	}
	now := time.Now()
	if _, more := sp.AcquireOther(now, key, nil); more {
		return
	}
	if out := sp.Outlook(now, key); out.First != "" {
		h.Set("Retry-After", waitSeconds(out.Until.Sub(now)))
	}
}

// waitSeconds is a wait in whole seconds, at least one (RFC 9110, section
// 10.2.3).
func waitSeconds(wait time.Duration) string {
	return strconv.Itoa(max(1, int(math.Ceil(wait.Seconds()))))
}

// refusal is the answer of an exhausted pool of which nothing goes upstream.
func (x *exchange) refusal(req *http.Request, now time.Time) *http.Response {
	status, header, e := x.pool.refusal(now, x.key)
	body := e.json()
	header.Set("Content-Type", "application/json")
	return &http.Response{
		Status:        strconv.Itoa(status) + " " + http.StatusText(status),
		StatusCode:    status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
		Request:       req,
	}
}

// refusal is what an exhausted pool says: 429 if members come back by waiting,
// 503 if none does.
func (sp *servedPool) refusal(now time.Time, key string) (status int, h http.Header, e localError) {
	out := sp.Outlook(now, key)
	h = make(http.Header)
	e = localError{Type: "pool_exhausted", Message: "no account of the pool " + strconv.Quote(sp.Name()) + " is available at the moment"}
	status = http.StatusTooManyRequests
	if out.NeedsOperator {
		status = http.StatusServiceUnavailable
		e.Message = "no account of the pool " + strconv.Quote(sp.Name()) + " has a credential that works"
	}
	if out.First != "" && !out.NeedsOperator {
		h.Set("Retry-After", waitSeconds(out.Until.Sub(now)))
	}
	return status, h, e
}

// writeRefusal answers for an exhausted pool.
func (sp *servedPool) writeRefusal(w http.ResponseWriter, r *http.Request, now time.Time, key string) {
	status, header, e := sp.refusal(now, key)
	maps.Copy(w.Header(), header)
	writeError(w, r, status, e)
}

// localError is the JSON of an answer that is ours and not the upstream's.
type localError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

func (e localError) json() []byte {
	b, err := json.Marshal(map[string]localError{"error": e})
	if err != nil { // two strings
		panic(err)
	}
	return append(b, '\n')
}

// writeError writes a JSON error of our own. A client that waits for a 100
// before it sends its body gets the error instead, and the connection ends:
// net/http would wait for the body first, to use the connection again.
func writeError(w http.ResponseWriter, r *http.Request, status int, e localError) {
	if r.ProtoMajor == 1 && r.Header.Get("Expect") != "" {
		w.Header().Set("Connection", "close")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(e.json())
}
