package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

var openAI = api{
	start: bearer,
	path:  "/v1/chat/completions",
	refusals: map[string]http.HandlerFunc{
		"429": refusal(429, `{"error":{"message":"Rate limit reached for gpt-4o in organization org-x on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s.","type":"requests","param":null,"code":"rate_limit_exceeded"}}`),
		"401": refusal(401, `{"error":{"message":"Incorrect API key provided.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`),
	},
	serve: completion,
}

// completion answers a chat completion, whole or as a stream.
func completion(account string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Stream bool }
		body := asked(w, r)
		if body == nil || json.Unmarshal(body, &in) != nil {
			return
		}
		if !in.Stream {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"id":"c","object":"chat.completion","created":1,"model":"gpt-4o","choices":[{"index":0,"finish_reason":"stop",`+
				`"message":{"role":"assistant","content":%q}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`, "served by "+account)
			return
		}
		for _, part := range []string{"served ", "by ", account} {
			send(w, "", fmt.Sprintf(`{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":%q},"finish_reason":null}]}`, part))
		}
		send(w, "", `{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`)
		send(w, "", "[DONE]")
	}
}

// openAIClient is OpenAI's SDK for Go. It does not retry.
func (c *caddy) openAIClient() openai.Client {
	return openai.NewClient(option.WithBaseURL(c.url("/v1/")), option.WithAPIKey(c.phantom),
		option.WithMaxRetries(0), option.WithHTTPClient(c.witness()))
}

var question = openai.ChatCompletionNewParams{
	Model:    openai.ChatModelGPT4o,
	Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("say hi")},
}

func TestOpenAI_completion(t *testing.T) {
	t.Parallel()
	openAI.failsOver(t, func(t *testing.T, c *caddy) string {
		client := c.openAIClient()
		res, err := client.Chat.Completions.New(t.Context(), question)
		if err != nil {
			t.Fatal(err)
		}
		return res.Choices[0].Message.Content
	})
}

func TestOpenAI_stream(t *testing.T) {
	t.Parallel()
	openAI.failsOver(t, func(t *testing.T, c *caddy) string { return c.openAIStream(t) })
}

// openAIStream returns what the SDK makes of a stream.
func (c *caddy) openAIStream(t *testing.T) string {
	t.Helper()
	client := c.openAIClient()
	stream := client.Chat.Completions.NewStreaming(t.Context(), question)
	defer stream.Close()
	var told openai.ChatCompletionAccumulator
	for stream.Next() {
		told.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	equal(t, "finish", told.Choices[0].FinishReason, "stop")
	return told.Choices[0].Message.Content
}

func TestOpenAI_node(t *testing.T) {
	t.Parallel()
	node, sdk, script := onPath(t, "node"), fromNPM(t, "openai"), must(filepath.Abs("testdata/clients/openai.cjs"))
	for _, how := range []string{"completion", "stream"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			openAI.failsOver(t, func(t *testing.T, c *caddy) string {
				return c.program("OPENAI_BASE_URL="+c.url("/v1"), "OPENAI_API_KEY="+c.phantom).run(t, node, script, sdk, how)
			})
		})
	}
}
