module github.com/credentialpool/caddy-credential-pool/internal/bench

go 1.26.8
