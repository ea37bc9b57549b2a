import { fileURLToPath } from "node:url";

/**
 * Where ONNX Runtime's library is: `ESPALIER_ONNXRUNTIME` if set (a Jetson brings its own CUDA build), else the one
 * inside the npm package `onnxruntime-node`.
 *
 * @throws {TypeError} On a platform that the package has no library for.
 */
export function libraryPath(): string {
  const override = Deno.env.get("ESPALIER_ONNXRUNTIME");
  if (override) return override;
  const { os, arch } = Deno.build;
  const file = { linux: "libonnxruntime.so.1", darwin: "libonnxruntime.1.dylib" }[os as "linux" | "darwin"];
  const folder = { x86_64: "x64", aarch64: "arm64" }[arch];
  if (file === undefined || folder === undefined) {
    throw new TypeError(`Cannot find ONNX Runtime for ${os} on ${arch}: set ESPALIER_ONNXRUNTIME to its library`);
  }
  const manifest = fileURLToPath(import.meta.resolve("onnxruntime-node/package.json"));
  return manifest.replace(/package\.json$/, `bin/napi-v6/${os}/${folder}/${file}`);
}
