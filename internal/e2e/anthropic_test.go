package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

var anthropicAPI = api{
	start: key,
	path:  "/v1/messages",
	refusals: map[string]http.HandlerFunc{
		"429": refusal(429, `{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit of 50 requests per minute."},"request_id":"req_1"}`),
		"401": refusal(401, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"},"request_id":"req_1"}`),
	},
	serve: message,
	check: func(t *testing.T, c *caddy, h hit) {
		t.Helper()
		equal(t, "the key is home's", h.header.Get("X-Api-Key") == c.secrets["home"], true)
		equal(t, "Authorization", h.header["Authorization"], "[]")
	},
}

// message answers with a message, whole or as a stream.
func message(account string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Stream bool }
		body := asked(w, r)
		if body == nil || json.Unmarshal(body, &in) != nil {
			return
		}
		if !in.Stream {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[{"type":"text","text":%q}],`+
				`"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}`, "served by "+account)
			return
		}
		send(w, "message_start", `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[],`+
			`"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}`)
		send(w, "content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)
		for _, part := range []string{"served ", "by ", account} {
			send(w, "content_block_delta", fmt.Sprintf(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%q}}`, part))
		}
		send(w, "content_block_stop", `{"type":"content_block_stop","index":0}`)
		send(w, "message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":3}}`)
		send(w, "message_stop", `{"type":"message_stop"}`)
	}
}

// anthropicClient is Anthropic's SDK for Go. It does not retry.
func (c *caddy) anthropicClient() anthropic.Client {
	return anthropic.NewClient(option.WithoutEnvironmentDefaults(), option.WithBaseURL(c.url("/")), option.WithAPIKey(c.phantom),
		option.WithMaxRetries(0), option.WithHTTPClient(c.witness()))
}

var prompt = anthropic.MessageNewParams{
	Model:     "claude-x",
	MaxTokens: 100,
	Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("say hi"))},
}

func TestAnthropic_message(t *testing.T) {
	t.Parallel()
	anthropicAPI.failsOver(t, func(t *testing.T, c *caddy) string {
		client := c.anthropicClient()
		res, err := client.Messages.New(t.Context(), prompt)
		if err != nil {
			t.Fatal(err)
		}
		return res.Content[0].Text
	})
}

func TestAnthropic_stream(t *testing.T) {
	t.Parallel()
	anthropicAPI.failsOver(t, func(t *testing.T, c *caddy) string {
		client := c.anthropicClient()
		stream := client.Messages.NewStreaming(t.Context(), prompt)
		defer stream.Close()
		var told anthropic.Message
		for stream.Next() {
			if err := told.Accumulate(stream.Current()); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		equal(t, "finish", told.StopReason, "end_turn")
		return told.Content[0].Text
	})
}
