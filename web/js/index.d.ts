/** A time: a Date, milliseconds since the Unix epoch, or nanoseconds as a bigint. */
export type Time = Date | number | bigint;

export type DType =
  | "bool" | "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "u64" | "i64"
  | "f16" | "bf16" | "f32" | "f64";

export type Bytes = ArrayBuffer | ArrayBufferView;

export type Picture =
  | ImageBitmap | HTMLCanvasElement | OffscreenCanvas | HTMLImageElement
  | HTMLVideoElement | VideoFrame | ImageData;

/** A tensor; `dtype` and `shape` default to the array's own. */
export interface TensorInput {
  dtype?: DType;
  shape?: ArrayLike<number>;
  data: Bytes;
}

/**
 * What a pipeline can be run on.
 *
 * A picture goes as PNG, an AudioBuffer as 16-bit WAV, a string as JSON text,
 * any other object as JSON. Bytes and Blobs go as they are.
 */
export type Input =
  | Picture
  | AudioBuffer
  | Blob
  | Bytes
  | string
  | { image: Picture | Blob | Bytes }
  | { audio: AudioBuffer | Blob | Bytes }
  | { text: string }
  | { json: unknown }
  | { payload: Blob | Bytes }
  | { tensor: TensorInput & { name?: string } }
  | { inputs: Record<string, TensorInput | ArrayBufferView> }
  | object;

/**
 * Where models of stages run that leave it open. `cpu`: on the CPU. `gpu`: on
 * WebGPU, or not at all where there is none. `auto`: on the CPU at first; where
 * there is a GPU, both are measured on one of the package's own frames when the
 * page is idle, and the faster one goes on. Models of components are on the CPU.
 */
export type Device = "cpu" | "gpu" | "auto";

/** The adapter that models run on. */
export interface Adapter {
  name: string;
  /** A rasteriser on the CPU, which `auto` leaves alone. */
  isSoftware: boolean;
}

export interface CreateOptions {
  /** The trust policy: its TOML, or a URL of it. */
  trust: string | URL;
  /** For packages whose `load` does not say. @default "auto" */
  device?: Device;
  /** The runtime's WebAssembly, where it is not beside `worker.js`. */
  wasm?: string | URL;
  /** The same for the build with the GPU, which is fetched where it will be used. */
  wasmGpu?: string | URL;
  /** Makes the worker, where `new Worker(new URL("./worker.js", import.meta.url))` does not do. */
  worker?: () => Worker;
  /** The cache of packages; false: none. @default { budget: 256 MiB } */
  cache?: { budget?: number } | false;
  /** The lowest release of each package that may run; what ran before counts, too. */
  floors?: Record<string, number>;
  /** The largest package that is downloaded, in bytes. @default 512 MiB */
  maxBytes?: number;
  /** Where window reports are posted, while `consent` says true. Default: nowhere. */
  telemetry?: { url: string | URL; consent: () => boolean };
  /** What components log, and the runtime itself. */
  onLog?: (line: LogLine) => void;
}

export interface LogLine {
  level: "debug" | "info" | "warn" | "error";
  /** The stage or monitor, or `runtime`. */
  source: string;
  message: string;
}

export interface Progress {
  loaded: number;
  /** Null where the server does not say. */
  total: number | null;
}

export interface LoadOptions {
  signal?: AbortSignal;
  /** Where its models run, as far as its stages leave that open. */
  device?: Device;
  onProgress?: (progress: Progress) => void;
  /** The sha256 of the file, in hexadecimal: it must have it, and is found in the cache by it. */
  digest?: string;
}

export interface RunOptions {
  /** Rejects at once; a frame that is running already is dropped when it is done. */
  signal?: AbortSignal;
  /** The payload's media type, where the input does not say. */
  mediaType?: string;
  /** When it was captured. Default: now. */
  capturedAt?: Time;
}

export interface Limits {
  time_ms: number;
  [limit: string]: number;
}

export interface PackageInfo {
  readonly name: string;
  readonly version: string;
  readonly release: number;
  /** The digest of the signed manifest. */
  readonly digest: string;
  /** The ids of the trusted keys that signed it. */
  readonly signers: string[];
  /** `runs` says what, and of a model on which device. */
  readonly stages: { id: string; runs: string; limits: Limits }[];
  /** Stages whose models are pinned to a GPU, those that leave it open, and those that are on one. */
  readonly gpu: { pinned: number; open: number; here: number };
  readonly monitors: string[];
  /** Media types that it takes; null: any. */
  readonly media_types: string[] | null;
  readonly deadline_ms: number | null;
}

/** Where a package's bytes came from. */
export interface Origin {
  /** `revalidated`: from the cache, and the server said it is the latest. */
  readonly from: "network" | "revalidated" | "cache" | "memory";
  readonly url: string | null;
  readonly bytes: number;
}

export interface Class {
  index: number;
  label?: string;
  score: number;
}

export interface Prediction {
  classes: Class[];
  detections: unknown[];
  values: { name: string; value: number }[];
  /** Null where the package has no rule for an alarm. */
  alarm: boolean | null;
}

export interface Tensor {
  name: string;
  dtype: DType;
  shape: number[];
  /** Elements in row-major order, little-endian. */
  data: Uint8Array;
}

export interface Report {
  /** Counts from 0, and goes on where the pipeline had to be started again. */
  frame: number;
  /** One of the three. A dropped frame is an answer, not an error. */
  result: {
    prediction?: Prediction;
    tensors?: Tensor[];
    dropped?: { code: string; message: string };
  };
  stages: { stage: string; duration_ns: number; outcome: string }[];
  /** Copies of tensors. */
  copies: Copies;
  /** Whether a stage failed because the GPU is lost, or out of memory. */
  has_lost_gpu: boolean;
  duration_ns: number;
}

export interface Copies {
  into_components: number;
  out_of_components: number;
  into_models: number;
  out_of_models: number;
  /** Of those out of models, the ones that came from the GPU. */
  readbacks: number;
}

export interface Finding {
  monitor: string;
  check: string;
  feature: string | null;
  severity: "info" | "warning" | "alarm";
  statistic: string;
  value: number;
  threshold: number;
  rows: number;
  /** The first and the last frame that it was computed from. */
  frames: [number, number];
  message: string;
}

export interface WindowReport {
  kind: "window";
  monitor: string;
  rows: number;
  frames: [number, number];
  /** In the monitor's own form, for merging. */
  summary: Uint8Array;
  findings: Finding[];
}

export interface PipelineEvents {
  finding: CustomEvent<Finding>;
  window: CustomEvent<WindowReport>;
  /** A monitor, or with `monitor: null` the whole pipeline, does not run any more. */
  disabled: CustomEvent<{ monitor: string | null; reason: string }>;
  /** A call of a monitor failed; it goes on. */
  "monitor-error": CustomEvent<{ monitor: string; message: string }>;
  /** `auto` has chosen, by what was measured, or had to leave the GPU. */
  device: CustomEvent<{
    device: "cpu" | "gpu";
    reason: string;
    adapter?: string;
    /** What a frame took on the CPU, in microseconds. */
    cpuUs?: number;
    /** The same on the GPU; null: it did not run it, or gave another answer. */
    gpuUs?: number | null;
  }>;
}

export interface RuntimeEvents {
  /**
   * Something went on with less: `offline`, `quota`, `over-budget`, `cache`,
   * `telemetry`, `gpu`.
   */
  warning: CustomEvent<{ code: string; message: string }>;
  /**
   * The adapter is lost. Packages on `auto` go on on the CPU; in others, stages on
   * the GPU fail, and their fallbacks and breakers take over.
   */
  devicelost: CustomEvent<{ adapter: string; reason: string; error: HeadlandError }>;
}

/**
 * Codes of this package; refusals and bad inputs come with those of the native
 * runtime, such as `untrusted` or `digest-mismatch`.
 */
export type ErrorCode =
  | "bad-device" | "bad-digest" | "bad-input" | "bad-policy" | "bad-source" | "crashed"
  | "csp" | "device-lost" | "digest-mismatch" | "disabled" | "disposed" | "gpu-limits"
  | "http" | "network" | "no-adapter" | "no-gpu" | "no-wasm-simd" | "no-webgpu"
  | "no-worker" | "out-of-memory" | "rolled-back" | "time-limit" | "too-large"
  | "worker" | "wrong-content";

export class HeadlandError extends Error {
  constructor(code: string, message: string, hint?: string, cause?: unknown);
  readonly name: "HeadlandError";
  /** Stable, for programs. */
  readonly code: ErrorCode | (string & {});
  /** What to do about it. */
  readonly hint?: string;
  /** With `http`: the status. */
  readonly status?: number;
}

export interface CachedPackage {
  digest: string;
  size: number;
  /** Milliseconds since the Unix epoch. */
  used: number;
  urls: string[];
}

export interface PackageCache {
  /** The latest used first. */
  list(): Promise<CachedPackage[]>;
  read(digest: string): Promise<Uint8Array | null>;
  clear(): Promise<void>;
}

/** A runtime: what is trusted, its workers and a cache. */
export class Headland extends EventTarget {
  private constructor();
  /** Whether the browser has WebGPU; `adapter()` says whether it works. */
  static readonly gpuAvailable: boolean;
  /** The adapter that models would run on; rejects with the reason where there is none. */
  static adapter(): Promise<Adapter>;
  static create(options: CreateOptions): Promise<Headland>;
  /** Null where there is none, or where none is wanted. */
  readonly cache: PackageCache | null;
  onwarning: ((event: RuntimeEvents["warning"]) => void) | null;
  ondevicelost: ((event: RuntimeEvents["devicelost"]) => void) | null;
  /** Fetch a package, verify it and start it. */
  load(source: string | URL | Bytes | Blob, options?: LoadOptions): Promise<Pipeline>;
  /** End the worker and every pipeline in it. */
  dispose(): void;
  addEventListener<K extends keyof RuntimeEvents>(type: K, listener: (event: RuntimeEvents[K]) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
}

/** A package that runs. */
export class Pipeline extends EventTarget {
  private constructor();
  readonly info: PackageInfo;
  readonly origin: Origin;
  /** Where its models run now, as far as its stages leave that open. */
  readonly device: "cpu" | "gpu";
  onfinding: ((event: PipelineEvents["finding"]) => void) | null;
  onwindow: ((event: PipelineEvents["window"]) => void) | null;
  ondisabled: ((event: PipelineEvents["disabled"]) => void) | null;
  ondevice: ((event: PipelineEvents["device"]) => void) | null;
  /** Run one frame; frames are served in the order in which they are given. */
  run(input: Input, options?: RunOptions): Promise<Report>;
  /** Resolves once monitors and shadow stages have seen every frame so far. */
  settle(): Promise<void>;
  /** End every monitor's window now, full or not. */
  closeWindows(): Promise<void>;
  /** Counters of frames and calls. */
  stats(): Promise<object>;
  dispose(): void;
  addEventListener<K extends keyof PipelineEvents>(type: K, listener: (event: PipelineEvents[K]) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
}
