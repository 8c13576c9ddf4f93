module github.com/geistnet/geist/e2e/openai-go

go 1.26.0

require github.com/openai/openai-go/v3 v3.94.0
