package chat

// ChatML is the template for models that bring none.
const ChatML = `{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
`

// Keys of the metadata of a GGUF file.
const (
	templateKey = "tokenizer.chat_template"
	namedPrefix = templateKey + "."
	toolUseName = "tool_use"
)

// Find chooses a model's template: the one for tool use if there are tools and
// the model has one, else its default, else [ChatML] with an empty key. lookup
// returns a text of the model's metadata; key says which was taken.
func Find(lookup func(key string) (string, bool), tools bool) (template, key string) {
	keys := []string{templateKey, namedPrefix + "default"}
	if tools {
		keys = append([]string{namedPrefix + toolUseName}, keys...)
	}
	for _, key := range keys {
		if text, ok := lookup(key); ok && text != "" {
			return text, key
		}
	}
	return ChatML, ""
}
