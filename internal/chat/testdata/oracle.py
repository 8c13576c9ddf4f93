"""Renders chat templates with Jinja2 the way Hugging Face's transformers does.

Reads a JSON list of jobs {"source": text, "vars": object, "mutable": bool} on
stdin and writes a JSON list of {"text": ...} or {"kind": ..., "message": ...}.
Run with Debian's /usr/bin/python3 and python3-jinja2 (3.1).
"""

import datetime
import functools
import json
import sys

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

NOW = datetime.datetime(2025, 7, 6, 9, 8, 7)


class Generation(Extension):
    """The generation tag: its body in a scope of its own."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment(mutable):
    base = SandboxedEnvironment if mutable else ImmutableSandboxedEnvironment
    env = base(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


@functools.cache
def compiled(source, mutable):
    return environment(mutable).from_string(source)


def run(job):
    try:
        return {"text": compiled(job["source"], job["mutable"]).render(**job["vars"])}
    except Exception as e:
        return {"kind": type(e).__name__, "message": str(e)}


if __name__ == "__main__":
    json.dump([run(job) for job in json.load(sys.stdin)], sys.stdout)
