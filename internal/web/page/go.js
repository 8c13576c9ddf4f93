// Runs a Go program that was compiled with GOOS=js GOARCH=wasm: the functions
// that its runtime and package syscall/js import. Arguments lie on the program's
// stack from sp+8 on. A JavaScript value is eight bytes: a number as it is, zero
// for undefined, and for all else a NaN with an index into `values` in its lower
// half and a kind in the upper.
//
// The verifier reads no files and no clock that matters, so of the environment
// that Go expects there is only what it looks for at its start.

const nan = 0x7ff80000;
const kinds = { object: 1, string: 2, symbol: 3, function: 4 };
const text = { enc: new TextEncoder(), dec: new TextDecoder() };

/** run starts the program and resolves when it waits for calls or has ended. */
export async function run(response) {
  const constants = { O_WRONLY: -1, O_RDWR: -1, O_CREAT: -1, O_TRUNC: -1, O_APPEND: -1, O_EXCL: -1, O_DIRECTORY: -1 };
  globalThis.fs ??= { constants };
  globalThis.process ??= { pid: -1, ppid: -1 };
  globalThis.path ??= { resolve: (...parts) => parts.join("/") };
  const go = new Program();
  const source = WebAssembly.instantiateStreaming(response, { gojs: go.imports() });
  go.begin((await source).instance.exports);
  return go;
}

class Program {
  begin(exports) {
    this.exports = exports;
    this.ended = false;
    this.event = null;
    this.timers = new Map();
    this.nextTimer = 1;
    const fixed = [NaN, 0, null, true, false, globalThis, this];
    this.values = [...fixed];
    this.count = fixed.map(() => Infinity); // references that Go holds
    this.index = new Map(fixed.map((v, i) => [v, i]).slice(1));
    this.free = [];
    this.view();
    // One argument, the program's name, and no environment.
    const at = 4096;
    this.bytes(at, 8).set(text.enc.encode("verify\0\0"));
    const list = [at, 0, 0, 0];
    list.forEach((v, i) => this.mem.setBigUint64(at + 8 + 8 * i, BigInt(v), true));
    exports.run(1, at + 8);
  }

  view() {
    this.mem = new DataView(this.exports.mem.buffer);
  }

  bytes(at, n) {
    return new Uint8Array(this.exports.mem.buffer, at, n);
  }

  int(at) {
    return Number(this.mem.getBigInt64(at, true));
  }

  setInt(at, v) {
    this.mem.setBigInt64(at, BigInt(Math.trunc(v)), true);
  }

  slice(at) {
    return this.bytes(this.int(at), this.int(at + 8));
  }

  string(at) {
    return text.dec.decode(this.slice(at));
  }

  load(at) {
    const f = this.mem.getFloat64(at, true);
    if (f === 0) return undefined;
    return Number.isNaN(f) ? this.values[this.mem.getUint32(at, true)] : f;
  }

  loadAll(at) {
    const from = this.int(at);
    return Array.from({ length: this.int(at + 8) }, (_, i) => this.load(from + 8 * i));
  }

  store(at, v) {
    if (v === undefined) return this.mem.setFloat64(at, 0, true);
    if (typeof v === "number" && v !== 0 && !Number.isNaN(v)) return this.mem.setFloat64(at, v, true);
    let id = typeof v === "number" ? (v === 0 ? 1 : 0) : this.index.get(v);
    if (id === undefined) {
      id = this.free.pop() ?? this.values.length;
      this.values[id] = v;
      this.count[id] = 0;
      this.index.set(v, id);
    }
    this.count[id]++;
    const kind = v === null ? 0 : (kinds[typeof v] ?? 0);
    this.mem.setUint32(at + 4, nan | kind, true);
    this.mem.setUint32(at, id, true);
  }

  /** attempt calls f and stores its result, or what it threw, and which it was. */
  attempt(f, at) {
    let result, well = 1;
    try {
      result = f();
    } catch (e) {
      [result, well] = [e, 0];
    }
    const sp = this.exports.getsp() >>> 0; // Go may have run, on a stack elsewhere
    this.store(sp + at, result);
    this.mem.setUint8(sp + at + 8, well);
  }

  resume() {
    if (this.ended) throw new Error("the verifier has ended");
    this.exports.resume();
  }

  // Package syscall/js calls this to make a function of a Go function.
  _makeFuncWrapper(id) {
    const go = this;
    return function (...args) {
      const event = { id, this: this, args };
      go.event = event;
      go.resume();
      return event.result;
    };
  }

  get _pendingEvent() {
    return this.event;
  }

  set _pendingEvent(e) {
    this.event = e;
  }

  imports() {
    const f = {
      "runtime.wasmExit": () => {
        this.ended = true;
      },
      "runtime.wasmWrite": (sp) => console.error(text.dec.decode(this.bytes(this.int(sp + 16), this.mem.getInt32(sp + 24, true)))),
      "runtime.resetMemoryDataView": () => this.view(),
      "runtime.nanotime1": (sp) => this.setInt(sp + 8, (performance.timeOrigin + performance.now()) * 1e6),
      "runtime.walltime": (sp) => {
        const ms = Date.now();
        this.setInt(sp + 8, ms / 1000);
        this.mem.setInt32(sp + 16, (ms % 1000) * 1e6, true);
      },
      "runtime.scheduleTimeoutEvent": (sp) => {
        const id = this.nextTimer++;
        const wake = () => {
          // A timer that fires early is not seen by Go and has to fire again.
          while (this.timers.has(id)) this.resume();
        };
        this.timers.set(id, setTimeout(wake, this.int(sp + 8)));
        this.mem.setInt32(sp + 16, id, true);
      },
      "runtime.clearTimeoutEvent": (sp) => {
        const id = this.mem.getInt32(sp + 8, true);
        clearTimeout(this.timers.get(id));
        this.timers.delete(id);
      },
      "runtime.getRandomData": (sp) => {
        const b = this.slice(sp + 8);
        for (let i = 0; i < b.length; i += 65536) crypto.getRandomValues(b.subarray(i, i + 65536));
      },
      "syscall/js.finalizeRef": (sp) => {
        const id = this.mem.getUint32(sp + 8, true);
        if (--this.count[id] > 0) return;
        this.index.delete(this.values[id]);
        this.values[id] = null;
        this.free.push(id);
      },
      "syscall/js.stringVal": (sp) => this.store(sp + 24, this.string(sp + 8)),
      "syscall/js.valueGet": (sp) => {
        const v = Reflect.get(this.load(sp + 8), this.string(sp + 16));
        this.store((this.exports.getsp() >>> 0) + 32, v);
      },
      "syscall/js.valueSet": (sp) => Reflect.set(this.load(sp + 8), this.string(sp + 16), this.load(sp + 32)),
      "syscall/js.valueIndex": (sp) => this.store(sp + 24, Reflect.get(this.load(sp + 8), this.int(sp + 16))),
      "syscall/js.valueSetIndex": (sp) => Reflect.set(this.load(sp + 8), this.int(sp + 16), this.load(sp + 24)),
      "syscall/js.valueLength": (sp) => this.setInt(sp + 16, this.load(sp + 8).length),
      "syscall/js.valueCall": (sp) => {
        const [v, name, args] = [this.load(sp + 8), this.string(sp + 16), this.loadAll(sp + 32)];
        this.attempt(() => Reflect.apply(Reflect.get(v, name), v, args), 56);
      },
      "syscall/js.valueNew": (sp) => {
        const [v, args] = [this.load(sp + 8), this.loadAll(sp + 16)];
        this.attempt(() => Reflect.construct(v, args), 40);
      },
      "syscall/js.valuePrepareString": (sp) => {
        const b = text.enc.encode(String(this.load(sp + 8)));
        this.store(sp + 16, b);
        this.setInt(sp + 24, b.length);
      },
      "syscall/js.valueLoadString": (sp) => this.slice(sp + 16).set(this.load(sp + 8)),
      "syscall/js.valueInstanceOf": (sp) => this.mem.setUint8(sp + 24, this.load(sp + 8) instanceof this.load(sp + 16) ? 1 : 0),
      "syscall/js.copyBytesToGo": (sp) => this.copy(sp, this.load(sp + 32), () => this.slice(sp + 8), true),
      "syscall/js.copyBytesToJS": (sp) => this.copy(sp, this.load(sp + 8), () => this.slice(sp + 16), false),
    };
    for (const [name, call] of Object.entries(f)) f[name] = (sp) => void call(sp >>> 0);
    return f;
  }

  /** copy moves what fits between an array and Go's memory. */
  copy(sp, array, slice, toGo) {
    const well = array instanceof Uint8Array || array instanceof Uint8ClampedArray;
    if (well) {
      const b = slice();
      const n = Math.min(b.length, array.length);
      if (toGo) b.set(array.subarray(0, n));
      else array.set(b.subarray(0, n));
      this.setInt(sp + 40, n);
    }
    this.mem.setUint8(sp + 48, well ? 1 : 0);
  }
}
