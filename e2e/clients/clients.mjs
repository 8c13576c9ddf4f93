// Unmodified clients against a gateway: node clients.mjs [BASE] [MODEL] [KEY]
// prints a table and ends with status 1 if a case fails. With the fake of
// internal/gateway as the server (the default) answers are known word by word.
// Any other server is held to shapes, to what it must enforce (calls, schemas),
// and to what must be equal (seeds, vectors); if it has receipts, to what an
// answer that was given up costs. BASE/witness, if it is there, is the proxy of
// TestProxy, and what did not fit the contract fails the run.
import OpenAI from 'openai'
import { Ollama } from 'ollama'
import { ChatOpenAI, OpenAIEmbeddings, OpenAI as LangChainText } from '@langchain/openai'
import { HumanMessage, ToolMessage } from '@langchain/core/messages'
import { tool } from '@langchain/core/tools'
import { z } from 'zod'
import { readFileSync } from 'node:fs'

const base = process.argv[2] ?? 'http://127.0.0.1:11500'
const model = process.argv[3] ?? 'fake'
const key = process.argv[4] ?? 'any'
const fake = model === 'fake'

const openai = new OpenAI({ baseURL: base + '/v1', apiKey: key, maxRetries: 0 })
const ollama = new Ollama({ host: base, headers: { Authorization: `Bearer ${key}` } })
// Silly models talk without end.
const most = fake ? {} : { max_tokens: 48 }
const few = fake ? {} : { options: { num_predict: 48 } }
const lang = options => new ChatOpenAI({ model, apiKey: key, maxRetries: 0, ...(fake ? {} : { maxTokens: options?.maxTokens ?? 48 }), configuration: { baseURL: base + '/v1' }, ...options })

const hello = [{ role: 'user', content: 'hello there' }]
const parameters = { type: 'object', properties: { city: { type: 'string', maxLength: 12 } }, required: ['city'], additionalProperties: false }
const weather = { type: 'function', function: { name: 'weather', description: 'weather of a city', parameters } }
const city = z.object({ city: z.string().max(12), temperature: z.number().int().min(-99).max(99) })
const schema = { type: 'object', properties: { city: { type: 'string', maxLength: 12 }, temperature: { type: 'integer', minimum: -99, maximum: 99 } }, required: ['city', 'temperature'], additionalProperties: false }

function ok(condition, what) {
  if (!condition) throw new Error(what)
}
function says(text, want = 'You said: hello there') {
  ok(typeof text === 'string', `no text: ${JSON.stringify(text)}`)
  if (fake) ok(text === want, `text ${JSON.stringify(text)}`)
}
// whole adds a stream up.
async function whole(stream) {
  const w = { text: '', calls: [], finish: null, usage: null }
  for await (const c of stream) {
    const x = c.choices[0]
    w.text += x?.delta?.content ?? ''
    for (const k of x?.delta?.tool_calls ?? []) w.calls.push([k.function.name, k.function.arguments])
    w.finish = x?.finish_reason ?? w.finish
    w.usage = c.usage ?? w.usage
  }
  return w
}
const once = r => ({ text: r.choices[0].message.content ?? '', calls: (r.choices[0].message.tool_calls ?? []).map(k => [k.function.name, k.function.arguments]), finish: r.choices[0].finish_reason, usage: r.usage })
function same(a, b) {
  const counts = w => JSON.stringify([w.text, w.calls, w.finish, w.usage.prompt_tokens, w.usage.completion_tokens, w.usage.total_tokens])
  ok(counts(a) === counts(b), `${counts(a)} and ${counts(b)}`)
}
// gaveUp holds that an answer that was given up ended soon and was not paid on.
async function gaveUp(before) {
  const get = async () => {
    const r = await fetch(base + '/geist/v1/receipts', { headers: { Authorization: `Bearer ${key}` } })
    return r.ok ? (await r.json()).receipts ?? [] : null
  }
  if (before === undefined) return (await get())?.length ?? null
  if (before === null || fake) return
  for (let i = 0; ; i++) {
    const list = await get()
    const last = list[0]
    if (list.length > before && last.phase !== 'running' && last.phase !== 'open') {
      ok(last.phase === 'cancelled' && last.answer_tokens < 200, `after hanging up: ${JSON.stringify(last)}`)
      return
    }
    ok(i < 100, `no receipt of what was given up: ${JSON.stringify(last)}`)
    await new Promise(r => setTimeout(r, 50))
  }
}
async function fails(promise, status, code) {
  try {
    await promise
  } catch (e) {
    ok(e.status === status && (code === undefined || e.code === code), `status ${e.status}, code ${e.code}: ${e.message}`)
    return e
  }
  throw new Error(`no error, ${status} was wanted`)
}

const cases = {
  'openai: chat': async () => {
    const r = await openai.chat.completions.create({ model, messages: hello, ...most })
    says(r.choices[0].message.content)
    ok(r.choices[0].finish_reason && r.usage.total_tokens > 0, 'finish and usage')
  },
  'openai: headers and geist': async () => {
    const { data, response } = await openai.chat.completions.create({ model, messages: hello, ...most }).withResponse()
    ok(response.headers.get('x-geist-provider') && response.headers.get('x-geist-cost-msat') !== null, 'headers')
    ok(data.geist && data._request_id, 'body')
  },
  'openai: stream': async () => {
    let text = '', usage = null
    for await (const c of await openai.chat.completions.create({ model, messages: hello, stream: true, stream_options: { include_usage: true }, ...most })) {
      text += c.choices[0]?.delta?.content ?? ''
      usage = c.usage ?? usage
    }
    says(text)
    ok(usage?.total_tokens > 0, 'usage')
  },
  'openai: stream helper': async () => {
    const r = await openai.chat.completions.stream({ model, messages: hello, ...most }).finalChatCompletion()
    says(r.choices[0].message.content)
  },
  'openai: tools': async () => {
    const r = await openai.chat.completions.create({ model, messages: hello, tools: [weather], tool_choice: 'required' })
    const call = r.choices[0].message.tool_calls[0]
    ok(r.choices[0].finish_reason === 'tool_calls' && call.function.name === 'weather' && JSON.parse(call.function.arguments).city, JSON.stringify(r.choices))
    const next = await openai.chat.completions.create({ model, messages: [...hello, r.choices[0].message, { role: 'tool', tool_call_id: call.id, content: 'sunny' }], tools: [weather], ...most })
    says(next.choices[0].message.content, 'You said: sunny')
  },
  'openai: tools streamed': async () => {
    const s = openai.chat.completions.stream({ model, messages: hello, tools: [weather], tool_choice: { type: 'function', function: { name: 'weather' } }, parallel_tool_calls: false })
    const call = (await s.finalChatCompletion()).choices[0].message.tool_calls[0]
    ok(call.function.name === 'weather' && JSON.parse(call.function.arguments).city && call.id, JSON.stringify(call))
  },
  'openai: runTools': async () => {
    let called = null
    const s = openai.chat.completions.runTools({ model, messages: hello, tools: [{ type: 'function', function: { name: 'weather', parameters, parse: JSON.parse, function: async a => ((called = a), 'sunny') } }] })
    const text = await s.finalContent()
    if (fake) ok(called?.city === 'Paris' && text === 'You said: sunny', JSON.stringify({ called, text }))
  },
  'openai: JSON schema': async () => {
    const r = await openai.chat.completions.create({ model, messages: hello, response_format: { type: 'json_schema', json_schema: { name: 'c', strict: true, schema } } })
    city.parse(JSON.parse(r.choices[0].message.content))
  },
  'openai: JSON object': async () => {
    const r = await openai.chat.completions.create({ model, messages: hello, response_format: { type: 'json_object' }, ...most })
    const text = r.choices[0].message.content
    if (r.choices[0].finish_reason === 'length') ok(text.trimStart().startsWith('{'), text)
    else ok(typeof JSON.parse(text) === 'object', 'an object')
  },
  'openai: logprobs': async () => {
    const r = await openai.chat.completions.create({ model, messages: hello, logprobs: true, top_logprobs: 2, max_tokens: 2 })
    const list = r.choices[0].logprobs.content
    ok(list.length > 0 && list.every(t => Array.isArray(t.top_logprobs) && Array.isArray(t.bytes)), JSON.stringify(list))
  },
  'openai: text': async () => {
    const r = await openai.completions.create({ model, prompt: 'Once', ...most })
    says(r.choices[0].text, 'and so on, ')
  },
  'openai: text streamed': async () => {
    let text = ''
    for await (const c of await openai.completions.create({ model, prompt: 'Once', stream: true, ...most })) text += c.choices[0].text
    says(text, 'and so on, ')
  },
  'openai: long prompt': async () => {
    const r = await openai.chat.completions.create({ model, messages: [{ role: 'user', content: 'together '.repeat(230) }], max_tokens: 4 })
    ok(r.usage.prompt_tokens > 200 || fake, JSON.stringify(r.usage))
  },
  'openai: embeddings': async () => {
    const r = await openai.embeddings.create({ model, input: ['a', 'b'] }) // asks for base64 and decodes it
    ok(r.data.length === 2 && Math.abs(Math.hypot(...r.data[0].embedding) - 1) < 1e-3, JSON.stringify(r.data))
  },
  'openai: vectors in both encodings': async () => {
    const [a, b] = await Promise.all(['float', 'base64'].map(encoding_format => openai.embeddings.create({ model, input: ['a goose', 'two geese'], encoding_format })))
    ok(a.usage.prompt_tokens === b.usage.prompt_tokens && a.usage.prompt_tokens > 0, JSON.stringify([a.usage, b.usage]))
    for (const i of [0, 1]) {
      const raw = Buffer.from(b.data[i].embedding, 'base64')
      const list = new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length))
      ok(list.length === a.data[i].embedding.length && list.every((x, k) => x === Math.fround(a.data[i].embedding[k])), `vector ${i} differs`)
    }
    const d = await openai.embeddings.create({ model, input: 'a goose', dimensions: 2 })
    ok(d.data[0].embedding.length === 2 && Math.abs(Math.hypot(...d.data[0].embedding) - 1) < 1e-3, JSON.stringify(d.data))
  },
  'openai: equal seeds, streamed or not': async () => {
    const more = [most, { ...most, temperature: 1.5, top_p: 0.9 }, { tools: [weather], tool_choice: 'required' }, { response_format: { type: 'json_schema', json_schema: { name: 'c', schema } } }, { ...most, stop: ['e'] }]
    for (const [seed, options] of more.entries()) {
      const ask = { model, messages: hello, seed, ...options }
      const a = once(await openai.chat.completions.create(ask))
      const b = await whole(await openai.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }))
      same(a, b)
      ok(a.usage.total_tokens === a.usage.prompt_tokens + a.usage.completion_tokens, JSON.stringify(a.usage))
      if (options.max_tokens) ok(a.usage.completion_tokens <= options.max_tokens, JSON.stringify(a.usage))
      if (options.stop && !fake) ok(!a.text.includes('e'), a.text)
      if (options.tool_choice) ok(a.finish === 'tool_calls' && a.calls.length > 0, JSON.stringify(a))
    }
  },
  'openai: models': async () => {
    const names = []
    for await (const m of openai.models.list()) names.push(m.id)
    ok(names.includes(model), names.join())
    ok((await openai.models.retrieve(model)).id === model, 'one')
  },
  'openai: abort': async () => {
    const before = await gaveUp()
    const s = await openai.chat.completions.create({ model: fake ? 'org/slow' : model, messages: hello, stream: true })
    for await (const c of s) {
      if (c.choices[0]?.delta?.content) s.controller.abort()
    }
    ok(s.controller.signal.aborted, 'not aborted')
    await gaveUp(before)
  },
  'openai: errors': async () => {
    await fails(openai.chat.completions.create({ model, messages: hello, n: 2 }), 400, 'unsupported_value')
    await fails(openai.chat.completions.create({ model, messages: [] }), 400)
    await fails(openai.post('/audio/speech', { body: {} }), 404, 'unknown_url')
    if (!fake) await fails(openai.chat.completions.create({ model, messages: hello, response_format: { type: 'json_schema', json_schema: { name: 'x', strict: true, schema: { not: {} } } } }), 400)
    if (!fake) {
      await fails(openai.chat.completions.create({ model: 'no-such-model', messages: hello }), 404, 'model_not_found')
      await fails(openai.chat.completions.create({ model, messages: [{ role: 'user', content: 'word '.repeat(20000) }] }), 400, 'context_length_exceeded')
      await fails(openai.chat.completions.create({ model, messages: hello, geist: { quantisation: 'q1_z' } }), 422, 'demand_not_met')
      await fails(openai.embeddings.create({ model, input: 'a', dimensions: 1e6 }), 400)
    }
    if (!fake) return
    await fails(openai.chat.completions.create({ model: 'poor', messages: hello }), 402, 'insufficient_quota')
    const e = await fails(openai.chat.completions.create({ model: 'busy', messages: hello }), 429)
    ok(e.headers.get('retry-after') === '2', 'retry-after')
    await fails(openai.chat.completions.create({ model: 'long', messages: hello }), 400, 'context_length_exceeded')
    await fails(openai.chat.completions.create({ model: 'nobody', messages: hello }), 503)
  },
  'openai: broken stream': async () => {
    if (!fake) return
    let text = '', error = null
    try {
      for await (const c of await openai.chat.completions.create({ model: 'broken', messages: hello, stream: true })) text += c.choices[0].delta.content ?? ''
    } catch (e) {
      error = e
    }
    ok(text && error?.code === 'provider_failed', `${text} ${error}`)
  },

  'ollama: chat': async () => {
    const r = await ollama.chat({ model, messages: hello, ...few })
    says(r.message.content)
    ok(r.done && r.eval_count > 0, JSON.stringify(r))
  },
  'ollama: chat streamed': async () => {
    let text = '', last
    for await (const p of await ollama.chat({ model, messages: hello, stream: true, ...few })) {
      text += p.message.content
      last = p
    }
    says(text)
    ok(last.done && last.total_duration > 0, JSON.stringify(last))
  },
  'ollama: tools': async () => {
    const r = await ollama.chat({ model, messages: hello, tools: [weather], ...few })
    if (fake) ok(r.message.tool_calls[0].function.arguments.city === 'Paris', JSON.stringify(r.message))
  },
  'ollama: schema': async () => {
    const r = await ollama.chat({ model, messages: hello, format: schema })
    city.parse(JSON.parse(r.message.content))
  },
  'ollama: generate': async () => {
    const r = await ollama.generate({ model, prompt: 'hello there', ...few })
    says(r.response)
  },
  'ollama: embed': async () => {
    const r = await ollama.embed({ model, input: ['a', 'b'] })
    ok(r.embeddings.length === 2, JSON.stringify(r))
    ok((await ollama.embeddings({ model, prompt: 'a' })).embedding.length > 0, 'older path')
  },
  'ollama: list, show, ps': async () => {
    ok((await ollama.list()).models.some(m => m.name === model), 'list')
    ok((await ollama.show({ model })).capabilities.includes('completion'), 'show')
    ok(Array.isArray((await ollama.ps()).models), 'ps')
    ok((await ollama.version()).version, 'version')
  },
  'ollama: abort': async () => {
    const before = await gaveUp()
    const s = await ollama.chat({ model: fake ? 'org/slow' : model, messages: hello, stream: true })
    let error = null
    try {
      for await (const p of s) s.abort()
    } catch (e) {
      error = e
    }
    ok(error?.name === 'AbortError', `${error}`)
    await gaveUp(before)
  },
  'ollama: errors': async () => {
    if (!fake) return
    let error = null
    try {
      await ollama.chat({ model: 'poor', messages: hello })
    } catch (e) {
      error = e
    }
    ok(error?.status_code === 402 && error.message.includes('msat'), `${error}`)
    error = null
    try {
      for await (const p of await ollama.chat({ model: 'broken', messages: hello, stream: true }));
    } catch (e) {
      error = e
    }
    ok(error?.message.includes('vanished'), `${error}`)
  },

  'langchain: invoke': async () => {
    const r = await lang().invoke([new HumanMessage('hello there')])
    says(r.content)
    ok(r.usage_metadata.total_tokens > 0, JSON.stringify(r.usage_metadata))
  },
  'langchain: stream': async () => {
    let all
    for await (const c of await lang().stream('hello there')) all = all ? all.concat(c) : c
    says(all.content)
    ok(all.usage_metadata?.total_tokens > 0, JSON.stringify(all.usage_metadata))
  },
  'langchain: tools': async () => {
    const t = tool(async () => 'sunny', { name: 'weather', description: 'weather of a city', schema: z.object({ city: z.string().max(12) }) })
    const r = await lang({ maxTokens: 300 }).bindTools([t], { tool_choice: 'weather' }).invoke('hello there')
    ok(r.tool_calls[0].name === 'weather' && r.tool_calls[0].args.city, JSON.stringify(r.tool_calls))
    const next = await lang().bindTools([t]).invoke([new HumanMessage('x'), r, new ToolMessage({ tool_call_id: r.tool_calls[0].id, content: 'sunny' })])
    says(next.content, 'You said: sunny')
  },
  'langchain: tools streamed': async () => {
    const t = tool(async () => 'sunny', { name: 'weather', description: 'weather of a city', schema: z.object({ city: z.string().max(12) }) })
    let all
    for await (const c of await lang({ maxTokens: 300 }).bindTools([t], { tool_choice: 'required' }).stream('hello there')) all = all ? all.concat(c) : c
    ok(all.tool_calls[0].name === 'weather' && all.tool_calls[0].args.city, JSON.stringify(all.tool_calls))
  },
  'langchain: structured, schema': async () => {
    city.parse(await lang({ maxTokens: 300 }).withStructuredOutput(city, { method: 'jsonSchema', name: 'c' }).invoke('hello there'))
  },
  'langchain: structured, JSON': async () => {
    if (fake) {
      const r = await lang().withStructuredOutput(city, { method: 'jsonMode' }).invoke('hello there')
      ok(r.city === 'Paris', JSON.stringify(r))
      return
    }
    const r = await lang({ modelKwargs: { response_format: { type: 'json_object' } } }).invoke('hello there')
    ok(r.content.trimStart().startsWith('{'), r.content)
  },
  'langchain: batch': async () => {
    const r = await lang().batch(['a', 'b', 'c'])
    ok(r.length === 3 && r.every(m => typeof m.content === 'string'), 'three')
  },
  'langchain: abort': async () => {
    const abort = new AbortController()
    const before = await gaveUp()
    let error = null
    try {
      for await (const c of await lang({ model: fake ? 'org/slow' : model, maxTokens: 400 }).stream('hello there', { signal: abort.signal })) abort.abort()
    } catch (e) {
      error = e
    }
    ok(/abort/i.test(`${error}`), `${error}`)
    await gaveUp(before)
  },
  'langchain: embeddings': async () => {
    const e = new OpenAIEmbeddings({ model, apiKey: key, maxRetries: 0, configuration: { baseURL: base + '/v1' } })
    ok((await e.embedDocuments(['a', 'b'])).length === 2 && (await e.embedQuery('a')).length > 0, 'vectors')
  },
  'langchain: text': async () => {
    const r = await new LangChainText({ model, apiKey: key, ...(fake ? {} : { maxTokens: 48 }), maxRetries: 0, configuration: { baseURL: base + '/v1' } }).invoke('Once')
    says(r, 'and so on, ')
  },
}

const version = name => JSON.parse(readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url))).version
console.log(`node ${process.versions.node}, ${['openai', 'ollama', '@langchain/openai'].map(n => `${n} ${version(n)}`).join(', ')}, server ${base}, model ${model}\n`)
console.log('| case | result | ms |\n|---|---|---|')
let failed = 0
for (const [name, run] of Object.entries(cases)) {
  const begin = performance.now()
  let result = 'ok'
  try {
    await Promise.race([run(), new Promise((_, no) => setTimeout(() => no(new Error('no end within 60 s')), 60000).unref())])
  } catch (e) {
    result = 'FAIL: ' + String(e.message ?? e).replaceAll('\n', ' ').slice(0, 300)
    failed++
  }
  console.log(`| ${name} | ${result} | ${Math.round(performance.now() - begin)} |`)
}
const witness = await fetch(base + '/witness').then(r => (r.ok && r.headers.get('content-type')?.includes('json') ? r.json() : null), () => null).catch(() => null)
if (witness?.mismatches) {
  console.log(`\n${witness.responses} responses and ${witness.events} events of streams held against openapi.yaml, ${witness.cut} cut short by clients, ${witness.mismatches.length} do not fit`)
  for (const m of witness.mismatches) console.log(m)
  failed += witness.mismatches.length
}
console.log(`\n${failed ? `${failed} failed of ` : 'all pass: '}${Object.keys(cases).length} cases`)
process.exit(failed ? 1 : 0)
