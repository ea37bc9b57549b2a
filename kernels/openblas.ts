import { canonicalEigen, type FloatsOrDoubles, type LinearAlgebra, mirrorLower } from "./matrix.ts";

/** Debian and most others; Fedora's threaded build; a development package; macOS. */
const LIBRARIES = ["libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so", "libopenblas.0.dylib"];

// CBLAS enumerations.
const ROW_MAJOR = 101;
const NO_TRANS = 111;
const TRANS = 112;
const LOWER = 122;

// Fortran's character arguments are pointers; gfortran appends their lengths.
const char = (letter: string) => new TextEncoder().encode(letter);
const VECTORS = char("V");
const UPPER = char("U");
const NON_UNIT = char("N");
const ONE_CHARACTER = 1n;

const gemm = <S extends "f32" | "f64">(scalar: S) =>
  ({
    parameters: [
      ...["i32", "i32", "i32", "i32", "i32", "i32"] as const,
      ...[scalar, "buffer", "i32", "buffer", "i32", scalar, "buffer", "i32"] as const,
    ],
    result: "void",
    nonblocking: true,
  }) as const;
const syrk = <S extends "f32" | "f64">(scalar: S) =>
  ({
    parameters: [
      ...["i32", "i32", "i32", "i32", "i32"] as const,
      ...[scalar, "buffer", "i32", scalar, "buffer", "i32"] as const,
    ],
    result: "void",
    nonblocking: true,
  }) as const;

const SYMBOLS = {
  openblas_get_config: { parameters: [], result: "pointer" },
  openblas_get_corename: { parameters: [], result: "pointer" },
  openblas_get_num_threads: { parameters: [], result: "i32" },
  openblas_set_num_threads: { parameters: ["i32"], result: "void" },
  cblas_dgemm: gemm("f64"),
  cblas_sgemm: gemm("f32"),
  cblas_dsyrk: syrk("f64"),
  cblas_ssyrk: syrk("f32"),
  // uplo, n, a, lda, info
  dpotrf_: {
    parameters: ["buffer", "buffer", "buffer", "buffer", "buffer", "usize"],
    result: "void",
    nonblocking: true,
  },
  // uplo, diag, n, a, lda, info
  dtrtri_: {
    parameters: ["buffer", "buffer", "buffer", "buffer", "buffer", "buffer", "usize", "usize"],
    result: "void",
    nonblocking: true,
  },
  // jobz, uplo, n, a, lda, w, work, lwork, iwork, liwork, info
  dsyevd_: {
    parameters: [
      ...["buffer", "buffer", "buffer", "buffer", "buffer", "buffer"] as const,
      ...["buffer", "buffer", "buffer", "buffer", "buffer", "usize", "usize"] as const,
    ],
    result: "void",
    nonblocking: true,
  },
} as const;

/**
 * Linear algebra by OpenBLAS and the LAPACK inside it; null where no usable library is installed.
 *
 * Calls run off the event loop. LAPACK stores columns where we store rows, so what it calls the upper triangle is our
 * lower one.
 *
 * @param threads Undefined leaves OpenBLAS's own choice.
 */
export function openOpenBlas(threads?: number): LinearAlgebra | null {
  chooseKernels();
  for (const library of LIBRARIES) {
    let symbols: Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;
    try {
      ({ symbols } = Deno.dlopen(library, SYMBOLS));
    } catch (error) {
      if (error instanceof Deno.errors.NotCapable) throw error;
      continue; // not installed, or built without LAPACK
    }
    const config = text(symbols.openblas_get_config());
    if (config.includes("USE64BITINT")) continue; // its integers are not ours
    if (threads !== undefined) symbols.openblas_set_num_threads(threads);
    const version = config.split(" ").slice(0, 2).join(" ");
    const core = text(symbols.openblas_get_corename());
    return openBlas(symbols, `${version} (${core}, ${symbols.openblas_get_num_threads()} threads)`);
  }
  return null;
}

function openBlas(symbols: Deno.StaticForeignLibraryInterface<typeof SYMBOLS>, name: string): LinearAlgebra {
  return {
    name,
    async multiply(a, b, c, { alpha = 1, beta = 0, transposeA = false, transposeB = false } = {}) {
      const call = c.data instanceof Float64Array ? symbols.cblas_dgemm : symbols.cblas_sgemm;
      const inner = transposeA ? a.rows : a.columns;
      const transposes = [transposeA ? TRANS : NO_TRANS, transposeB ? TRANS : NO_TRANS] as const;
      await call(
        ROW_MAJOR,
        ...transposes,
        c.rows,
        c.columns,
        inner,
        alpha,
        a.data,
        a.stride,
        b.data,
        b.stride,
        beta,
        c.data,
        c.stride,
      );
      keepAlive(a.data, b.data, c.data);
    },
    async gram(a, c, { alpha = 1, beta = 0 } = {}) {
      const call = c.data instanceof Float64Array ? symbols.cblas_dsyrk : symbols.cblas_ssyrk;
      await call(ROW_MAJOR, LOWER, TRANS, c.rows, a.rows, alpha, a.data, a.stride, beta, c.data, c.stride);
      keepAlive(a.data, c.data);
      mirrorLower(c.data, c.rows, c.stride);
    },
    async cholesky(symmetric, n) {
      const order = int32(n);
      const info = int32(0);
      await symbols.dpotrf_(UPPER, order, symmetric, order, info, ONE_CHARACTER);
      keepAlive(order, info, symmetric);
      // Not-a-number passes the library's test of the pivot.
      const pivot = info[0]! > 0 ? info[0]! - 1 : notPositive(symmetric, n);
      if (pivot !== -1) {
        throw new RangeError(`Cannot factor a matrix of order ${n}: it is not positive definite at pivot ${pivot}`);
      }
      for (let row = 0; row < n; row++) symmetric.fill(0, row * n + row + 1, (row + 1) * n);
    },
    async invertLower(lower, n) {
      const order = int32(n);
      const info = int32(0);
      await symbols.dtrtri_(UPPER, NON_UNIT, order, lower, order, info, ONE_CHARACTER, ONE_CHARACTER);
      keepAlive(order, info, lower);
    },
    async symmetricEigen(symmetric, n) {
      const vectors = symmetric.slice();
      const values = new Float64Array(n);
      const order = int32(n);
      const info = int32(0);
      // The sizes that the routine asks for when vectors are wanted.
      const work = new Float64Array(1 + 6 * n + 2 * n * n);
      const integers = new Int32Array(3 + 5 * n);
      const sizes = [int32(work.length), int32(integers.length)] as const;
      await symbols.dsyevd_(
        VECTORS,
        UPPER,
        order,
        vectors,
        order,
        values,
        work,
        sizes[0],
        integers,
        sizes[1],
        info,
        ONE_CHARACTER,
        ONE_CHARACTER,
      );
      keepAlive(order, info, work, integers, ...sizes);
      if (info[0] !== 0) throw new RangeError(`Cannot decompose a matrix of order ${n}: dsyevd failed with ${info[0]}`);
      return canonicalEigen(values, (k) => vectors.subarray(k * n, (k + 1) * n));
    },
  };
}

/** First diagonal element of a factor that is not above zero, or -1. */
function notPositive(lower: Float64Array, n: number): number {
  for (let i = 0; i < n; i++) if (!(lower[i * n + i]! > 0)) return i;
  return -1;
}

/**
 * Tells OpenBLAS which kernels to use, unless the environment does: on virtual machines and on processors newer than
 * itself it may not recognize what the flags say plainly, and then falls back to kernels without AVX.
 */
function chooseKernels(): void {
  if (Deno.build.arch !== "x86_64" || Deno.build.os !== "linux" || Deno.env.has("OPENBLAS_CORETYPE")) return;
  const flags = new Set(Deno.readTextFileSync("/proc/cpuinfo").match(/^flags\s*:(.*)$/m)?.[1]?.split(" "));
  const avx512 = ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"].every((flag) => flags.has(flag));
  if (avx512) Deno.env.set("OPENBLAS_CORETYPE", "SkylakeX");
  else if (flags.has("avx2") && flags.has("fma")) Deno.env.set("OPENBLAS_CORETYPE", "Haswell");
}

/** An array whose last use is a call may be collected while the call runs; using it afterwards prevents that. */
function keepAlive(...arrays: (FloatsOrDoubles | Int32Array<ArrayBuffer>)[]): void {
  arrays.forEach(({ length }) => length);
}

function int32(value: number): Int32Array<ArrayBuffer> {
  return new Int32Array([value]);
}

function text(pointer: Deno.PointerValue): string {
  return pointer === null ? "" : Deno.UnsafePointerView.getCString(pointer);
}
