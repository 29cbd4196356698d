package caddymodule

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

func adapt(text string) (string, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return string(config), err
}

// load makes the Caddyfile the running config.
func load(t *testing.T, text string) {
	t.Helper()
	config, err := adapt(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load([]byte(config), true); err != nil {
		t.Fatal(err)
	}
}

func TestCaddyfile_meansThisJSON(t *testing.T) {
	got, err := adapt(`{
	credential_pool {
		vault {
			identity {env.ID_1}
			identity {file./id-2}
		}
		pool p {
			provider generic
			member a
			member b {env.B}
			cooldown rate_limited 10s 1m
			cooldown auth_failed 1m
			max_cooldown 1d
			park_for 2m
			inject header X-Api-Key {credential}
			inject header X-Account {credential.account_id}
			inject query key {credential}
			hosts api.example.com *.example.org 10.0.0.0/8
			fail quota_exhausted {
				status 400 402
				header X-Out
				header x-why quota spend
				body "out of credits"
			}
		}
		notice_window 10s
		sync_interval 1s
	}
}
http://:80 {
	credential_pool /v1/* p https://api.example.com {
		client one {env.ONE}
		header_up X-Client one
		client two {env.TWO}
		retries 1
		replay_limit 1MiB
		on_exhausted reject
		transport http {
			dial_timeout 1s
		}
	}
	credential_pool p {
		allow_any_client
	}
	credential_pool /phantom p {
		client codex phantom
		client one {env.ONE}
	}
	credential_pool_token /oauth/token p https://auth.example.com {
		header_up X-Token yes
	}
	credential_pool_token /token p
}
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"vault":{"identities":["{env.ID_1}","{file./id-2}"]}`,
		`"members":[{"name":"a"},{"name":"b","secret":"{env.B}"}]`,
		`"cooldowns":{"auth_failed":{"base":60000000000},"rate_limited":{"base":10000000000,"cap":60000000000}}`,
		`"max_cooldown":86400000000000,"park_for":120000000000`,
		`"inject":[{"in":"header","name":"X-Api-Key","template":"{credential}"},{"in":"header","name":"X-Account","template":"{credential.account_id}"},{"in":"query","name":"key","template":"{credential}"}]`,
		`"hosts":["api.example.com","*.example.org","10.0.0.0/8"]`,
		`"fail":[{"kind":"quota_exhausted","status":[400,402],"header":{"X-Out":[],"X-Why":["quota","spend"]},"body":["out of credits"]}]`,
		`"notice_window":10000000000,"sync_interval":1000000000`,
		`"clients":[{"name":"one","token":"{env.ONE}"},{"name":"two","token":"{env.TWO}"}],"handler":"credential_pool","on_exhausted":"reject","pool":"p","proxy":{`,
		`"headers":{"request":{"set":{"X-Client":["one"]}}}`,
		`"transport":{"dial_timeout":1000000000,"protocol":"http","tls":{}},"upstreams":[{"dial":"api.example.com:443"}]`,
		`"replay_limit":1048576,"retries":1`,
		`{"allow_any_client":true,"handler":"credential_pool","pool":"p"}`,
		`{"clients":[{"name":"codex","phantom":true},{"name":"one","token":"{env.ONE}"}],"handler":"credential_pool","pool":"p"}`,
		`{"handler":"credential_pool_token","pool":"p","proxy":{"headers":{"request":{"set":{"X-Token":["yes"]}}},"transport":{"protocol":"http","tls":{}},"upstreams":[{"dial":"auth.example.com:443"}]}}`,
		`{"handler":"credential_pool_token","pool":"p"}`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if token, door := strings.Index(got, `"credential_pool_token"`), strings.Index(got, `"handler":"credential_pool"`); token > door {
		t.Error("the token endpoint stands behind the door, which would ask for a client's token")
	}
}

func TestCaddyfile_errors(t *testing.T) {
	app := func(words string) string { return "{\n\tcredential_pool {\n" + words + "\n\t}\n}\n" }
	inPool := func(words string) string { return app("pool p {\nmember a\n" + words + "\n}") }
	site := func(words string) string { return app("pool p {\nmember a\n}") + "http://:80 {\n" + words + "\n}\n" }
	for text, want := range map[string]string{
		app("pol p"):                             "unknown word pol; known: vault, pool, notify",
		app("pool"):                              "wrong argument count",
		app("pool P {\nmember a\n}"):             "this is no pool name",
		app("pool p {\n}"):                       "pool p: it has no member",
		app("pool p {\nmember a\n}\npool p"):     "pool p is given twice",
		app("vault {\nkey x\n}"):                 "unknown word key; known: identity",
		app("vault {\n}\nvault {\n}"):            "vault is given twice",
		app("notice_window soon"):                `notice_window: "soon" is not a duration`,
		app("notice_window 1s 2s"):               "wrong argument count",
		app("sync_interval 1s\nsync_interval"):   "sync_interval is given twice",
		app("notify pigeon"):                     "unknown notifier pigeon; known: webhook",
		app("sync_interval 1ms"):                 "sync_interval: it must be at least 100ms",
		app("vault {\nidentity sk-literal x\n}"): "identity wants one argument",
		inPool("member b Bearer sk-literal"):     "member wants",
		inPool("member sk-Literal"):              "this is no member name",
		inPool("provider nobody"):                `provider: "nobody" is not known; known: anthropic, azure_openai, bedrock, codex, gemini, generic, `,
		inPool("max_cooldown 10ms"):              "max_cooldown: it must be at least 1s",
		inPool("inject header A {credential}\ninject header a {credential}"): "inject header A is given twice",
		inPool("membr b"):                                                 "unknown word membr; known: provider, member",
		inPool("member a"):                                                "member a is given twice",
		inPool("member b sk-literal"):                                     "member b: a secret may not stand in the config",
		inPool("member ../b"):                                             "this is no member name",
		inPool("cooldown often 1s"):                                       `cooldown: unknown kind "often"; known: rate_limited, quota_exhausted, auth_failed`,
		inPool("cooldown rate_limited"):                                   "cooldown wants",
		inPool("cooldown rate_limited 1m 1s"):                             "the cap at least the base",
		inPool("inject cookie key {credential}"):                          `unknown place "cookie"; known: header, query`,
		inPool("inject query a&b {credential}"):                           `"a&b" is not the name of a parameter`,
		inPool("hosts"):                                                   "wrong argument count",
		inPool("hosts https://example.com"):                               "it has no scheme and no port",
		inPool("fail"):                                                    "wrong argument count",
		inPool("fail sometimes {\nstatus 400\n}"):                         `fail: unknown kind "sometimes"; known: rate_limited, quota_exhausted, auth_failed, request_error, overloaded`,
		inPool("fail rate_limited"):                                       "fail rate_limited: it needs a status, a header or a body",
		inPool("fail rate_limited {\nstatus 4xx\n}"):                      `fail: "4xx" is not a status`,
		inPool("fail rate_limited {\nstatus 99\n}"):                       "99 is not a status from 200 to 599",
		inPool("fail rate_limited {\nheader a:b\n}"):                      `"a:b" is not a header name`,
		inPool("fail rate_limited {\nbody \"\"\n}"):                       "body: it is empty",
		inPool("fail rate_limited {\nstatuss 400\n}"):                     "unknown word statuss; known: status, header, body",
		inPool("inject header X-Key key"):                                 "the template needs {credential}",
		inPool("inject header X-Key {credential} x"):                      "inject wants",
		inPool("inject header Connection {credential}"):                   "can't carry a credential",
		inPool("provider generic\nprovider generic"):                      "provider is given twice",
		site("credential_pool"):                                           "wrong argument count",
		site("credential_pool p 127.0.0.1:1 {\nretrys 1\n}"):              "unrecognized subdirective retrys",
		site("credential_pool p {\nclient a\n\nheader_up X y\n}"):         "client wants 2 argument(s), got 1",
		site("credential_pool p {\nallow_any_client\nheader_up X y\n\n}"): "unknown word header_up; known: client, allow_any_client, retries, replay_limit, on_exhausted (and, if credential_pool is given an upstream, those of reverse_proxy), at Caddyfile:11",
		site("credential_pool p {\n}"):                                    "no client may use the pool",
		site("credential_pool p {\nallow_any_client\nclient a b\n}"):      "client and allow_any_client exclude each other",
		site("credential_pool p {\nclient a b\nclient a c\n}"):            "client a is given twice",
		site("credential_pool p {\nclient sk-Literal a\n}"):               "this is no client name",
		site("credential_pool p {\nallow_any_client\nretries 1\n}"):       "need an upstream on credential_pool itself",
		site("credential_pool p {\nretries x\n}"):                         `retries: "x" is not a count`,
		site("credential_pool p {\nretries 1\nretries 2\n}"):              "retries is given twice",
		site("credential_pool p {\nreplay_limit x\n}"):                    `replay_limit: "x" is not a size`,
		site("credential_pool p {\nclient a phantom x\n}"):                "client wants 2 argument(s), got 3",
		site("credential_pool_token"):                                     "wrong argument count",
		site("credential_pool_token P"):                                   "this is no pool name",
		site("credential_pool_token p {\nheader_up X y\n}"):               "need an upstream",
		site("credential_pool_token p {\nclient a phantom\n}"):            "unrecognized subdirective client",
		site("credential_pool p {\non_exhausted cry\n}"):                  `on_exhausted: "cry" is neither`,
	} {
		_, err := adapt(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngives the error %v\nwant %s", text, err, want)
		}
		if err != nil && strings.Contains(strings.ToLower(err.Error()), "sk-literal") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}

func FuzzCaddyfile(f *testing.F) {
	f.Add("pool p {\nmember a {env.A}\n}", "client a b\nretries 1\nto 127.0.0.1:1")
	f.Add("vault {\nidentity {env.A}\n}", "transport http {\ntls\n}")
	f.Add("notify webhook https://example.com {\nsecret {env.S}\n}", "@x status 2xx\nhandle_response @x {\nrespond 200\n}")
	f.Fuzz(func(t *testing.T, app, handler string) {
		config, err := adapt("{\n\tcredential_pool {\n" + app + "\n\t}\n}\nhttp://:80 {\n\tcredential_pool p {\n" + handler + "\n\t}\n}\n")
		if err == nil && !json.Valid([]byte(config)) {
			t.Errorf("no JSON: %s", config)
		}
	})
}
