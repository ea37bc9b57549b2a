import { describe, it } from "@std/testing/bdd";
import { deepEqual, ok } from "node:assert/strict";
import { GGUF_QUANTIZATIONS, type GgufQuantization } from "./gguf_quantization.ts";

/**
 * Blocks of random bytes (with scales of a sane size), and what version 0.19 of the Python package `gguf` makes of
 * them; both in base64, the values as little-endian float32.
 */
const VECTORS: Readonly<Record<string, { blocks: string; values: string }>> = {
  Q8_0: {
    blocks: "8RyB60c1SgsAMIaRSmiaPETcyOO45t4QYvF3hafz0m54phWsLXxQuxVS7O4qKCSErzsXsbSHTYj3pJ4PWPwGFH1CEBc=",
    values:
      "wOMcvwCKz72Aa68+gPKCPgDVtj4AbFk9AAAAAAAwbT6Atha/wB8JvwDVtj4AegA/AAP8vgA+lD4AAqg+AOQxvgBcir4ATQ++AOSxvgB6AL4A" +
      "Aii+ACCePQAh8j4APpS9wAETP8DyF7+A5Nu+AHqAvQBOY76A4wc/AD4UPwBd3r4AsTfAABb9wABIo8CA1IxAAHKrvwBdp8AASKM/APSSPwBy" +
      "K8AASCPAAPQSwAAW/UCAUqVAANdwwADGu7+APaFAAB6bQID29kCAKJ3AAOz0QAD0Ej8AxrtAAAXIQADsdL8AnLPAAKCCPgDww74ASKO/gCD/" +
      "wAC1hsAAoIK/AMa7vw==",
  },
  Q4_0: {
    blocks: "7C2V2Cl+yeEFb6aDHZJA0q3zFyn7LifuQNwa75ICbzCUieTK",
    values:
      "ACCOvgAAAAAAgL09ACAOPwCAvT0A0CW/ACCOvgDQJT8AgD2+AODsvgDg7D4AIA6/AIA9vwAgDr8A4Ow+AODsvgCAvT0A4Ow+ACAOvwCAvb0A" +
      "gL0+ACAOPwCAPb8AgD2+AIA9PgAAAAAA0CW/AIC9PQCAvb4A4Ow+AIA9PgDQJT8AUPQ9AFB0PgDgIr0AUHQ+AOCivgDgIj4A4KI9AISOPgBQ" +
      "dL4AUHS+AISOPgDgor4A4CK+AOAiPQDgIr4A4KI9AISOPgBQdL4AUHS+AFB0PgDgIr4AmEs+AISOvgBQdD4A4CI9AOCivgDgor0AmEu+AOAi" +
      "PQAAAAAAUHQ+AOAiPg==",
  },
  Q4_1: {
    blocks: "haRcqDNQphPk/O0Ig9pl6/nf+xV3rd6q2eHwe0G+3xVjrpBG7wbGZg==",
    values:
      "ADiyvQCAC70AWA++ADiyvQBg1r0A0Hu+APKGvgCAM74AOLK9AKhXvgCI+r0AvGm+AJRFvgAGmb4AvGm+AIj6vQA4sr0AiPq9AKhXvgDQU70A" +
      "/I++AAaZvgD8j74AgAu9AIAzvgDyhr4AWA++APyPvgAGmb4A8oa+AAaZvgDQU70AeFK/AGAOvgDAW70AMH6/AGAOvgDin78A0Kq/ABD2vgCg" +
      "nr4A4p+/AMBbvQDkEL8A0Kq/AOQQvwDkEL8A5BC/APSUvwDin78A0Kq/AMAmvwBYyr4AMH6/APSUvwBgDr4A5BC/AFRovwB4Ur8AWMq+AOKf" +
      "vwDAW70ABoq/AOQQvw==",
  },
  Q5_0: {
    blocks: "gB9NS+ZvPf662DlreS0aaVYYQZGPITeqUksLCGY8hTPy2p1EUyRuix1FV7M=",
    values:
      "AADDPQAAcLwAAJY9AABwPQAAUr0AABa9AACHPQAAtLwAAJY9AACHPQAAlr0AAHA9AADhvQAA4b0AAOE9AADhvQAAw70AAOE9AAClPQAAtLwA" +
      "AMO9AAA0PQAAUj0AAHA8AADwOwAAND0AABY9AADwOwAAtL0AAIc9AABwPQAA0r0AmPg+ACgVvwC6CD8AliE/AODGvQAolT4AliG/ACgVPwAo" +
      "Fb4A4Ea+AODGPQC6CL8AKBU+ALoIPwAErr4AliE/ACiVvgAoFb4A4MY+ACgVvgDgRj0AKBU+AASuPgAoFT8Augg/AAQuPwCY+D4A4Ma+AHI6" +
      "PwAoFT8Augg/AJh4Pg==",
  },
  Q5_1: {
    blocks: "aJ9Nr3t6dA5ScRO/l3a/yHbZbNDOXILFFyjMKIh8FpNiqKo569E5fw5CXN0bSA2S",
    values:
      "ACB6vgC4cr4ACAu+ADStvgCUj74A4Iu+ADStvgAQML4AQCG+APyWvgCwTb4AUGu+AICpvgAYor4AIHq+ANgZvgDYGb4AqCi+ALhyvgBIRr4A" +
      "/Ja+AJSPvgBknr4AsE2+AKgovgDMpb4A4Iu+AMylvgCwTb4A2Bm+ABAwvgCwTb4AoM89ABCWPgDItj4AFlY/ACTHPgAwjj0AbKY+AJWDPwA4" +
      "+D4AoM89AKBuPwDOdj8AcmY/AOhNPwDOdj8AoM89ALBqPgBEXj8ARF4/AIgIPgD8fj8A3Oc+AIgIPgC0hT4AeAw/ADAtPwD4ST4A3Oc+AKYU" +
      "PwBAKT4AgBk9ABZWPw==",
  },
  Q4_K: {
    blocks:
      "hKOnKglltG+51Fv3IeT7JFed3ikVVnEDQ15AZrS1jK5Db4Ig+Zw0KxsBRrFO3CxEgi1sRW3HgkZbWd9C64ixSm37AlLXB0P/eNcECGftCdOu" +
      "v1Q1O+PqwYrsO1e8p8h5jraEK6H9TG1Ef+PZMt2bAh1H/dKDWu/R9up7EIVz9vjFOsQd0QjXeUDmjUPgMViu",
    values:
      "AMd4wADBlcBA+5nAANiEwADeZ8CAUnDAAAxGwAD1VsAA9VbAQPuZwICXPcCAUnDAgGlfwADeZ8DAhpHAQPuZwAD1VsCANZ7AgIBOwICXPcAA" +
      "2ITAwIaRwIBpX8CATI3AgEyNwAAMRsCAUnDAAAxGwED7mcDAhpHAwIaRwIBpX8CAUnDAQK69wKCZAcEACwjAAJHKv4BScMDA65rAAAyFvwCQ" +
      "TcCAUnDAAJBNwICKicDAcODAwHDgwABNrMCAD8/AAJBNwICKicAATazAAAsIwOD6EsFArr3AgM0qwAALCMAAkcq/AAyFvwCQTcDAcODAAJBN" +
      "wKCZAcEACwjAAJBNwICCO8AgODXBoAEpwUAIp8AgODXBQOLXwICCO8BAdb/AIMscwSBeBMEgpU3BgII7wCDLHMFAT/DAgKgKwKCUEMEgODXB" +
      "IMscwYCCO8CAgjvAQOLXwEDi18CAXGzAIKVNwUBP8MBA4tfAQJuOwEBP8MBA4tfAIDg1wSBeBMGAXGzAIAsGwcCfh8DA7t/AQMezwMDu38Cg" +
      "MjLBIAsGwUDHs8AA28nAANvJwIA8PcFAx7PAYEZIwSALBsHAKCfBQMezwMDu38BAUFPBgPA2wADbycCAPD3BgPA2wEDHs8BAUFPBgAL2wIA8" +
      "PcGA8DbAgPA2wMDu38BgRkjBgPA2wIA8PcEAfPy/AF3+vwCy6b8Ak+u/ANn2vwDR578A+PS/AA/kvwD49L8Auvi/ANn2vwBV778Auvi/AFXv" +
      "vwA28b8AF/O/AHz8vwB07b8Asum/ANn2vwAP5L8Am/q/ALr4vwCb+r8Asum/AF3+vwDR578AF/O/APDlvwCb+r8A2fa/APDlv4AOxcCAc87A" +
      "gBWWwIBLg8CAS4PAgKLqwICi6sCA2NfAgESywICi6sCAS4PAgBWWwIBzzsCADsXAgNjXwIDfqMCARLLAgHPOwIBEssAAzXPAgA7FwIAH9MCA" +
      "sIzAgHqfwICwjMCA36jAgKLqwIA94cCAS4PAgD3hwICpu8AAOU7AABEdwYDxwMAAER3BgOc3wABNYMDAif3AwEMxwQCCD8DAvqzAwIn9wEDe" +
      "CMEAOc6/AIyYwABNYMDAvqzAQCTVwACMmMDAif3AQFmEwAARHcEAgg/AQCTVwIDxwMAAV+nAADnOv8C+rMAAER3BAE1gwAA5zr8Agg/AQCTV" +
      "wGAqJ8EAGTnAAHdxwIAS4MCASM3AgE+ewIAggsCArdbAgEjNwIAS4MCArdbAgOqUwAAZOcCAT57AgOqUwIAS4MCAEuDAgOPDwACtXsCA48PA" +
      "ABk5wIBIzcAATybAgEjNwIDqlMAAd3HAgK3WwIBPnsAAd3HAgK3WwACtXsCAIILAgBmxwA==",
  },
  Q6_K: {
    blocks:
      "fyXEhrJYl4NILL3LkEBLKv3e55bL9OSahWkiWLA5PdLU2dG/rYtlf3UzkjPlInHOVycB/1Hit8MmeAZA/Lbi1Fn6VzYLkJWR1yS35TTw8g9B" +
      "07n8zMUdG9lTnuhFZo8wZHFPY1GAMU3GrFfEeZBe4fetucpxov639E2X0t58tNOsoku4GItQK+ZX3CHVywr7h6brF/Bhz3bJgjTjFRRibiCY" +
      "ioKBe3AHEgQIGrQIpsMtVaybCdt4wuojhW591u5wY+Fmik2lRB4MWDKM14JkxW8q",
    values:
      "9C6pwhAKx0EQCsdCJGABw4xHFcPg2O5ClMz4wlwWvUJAOx9C2FMLQ1wWvcIQCsfBQDufwkA7n0J48VpCJGABQ2i+NMLggq7BOFkPwrAdCcIo" +
      "4gJCwJSVQUBN+cFATXnBsB2JQSBfYMHw+TpCwJQVwgBxx0E4WQ9C0AuiwQBxR8AgEs1C2NTrwoAOpECYzZlCyEuFQvCTYUI8bArDmM2ZQvCT" +
      "YcLIS4XCUJC4QiStFMPwk2HCgA4kQYAOpECwjI9C0INVQtCDVUKAyr3AgMq9QCzcN0PY7TFDjGkIw4g0mkLgVw7C4FcOQyA9bUKAyj1DgMq9" +
      "QSA9bULY7TFDID3twlC72EGAsfdA8M6awiDFuULwzprBxP3QwlC72MGAsfdBgLF3QVC7WMLwzprBIMU5QlC72MFQu9jCULvYwthTi0IUg5tC" +
      "iNdtwpgRgMKYEQBCmBEAw2w3icLoqKRCtLHkwuCL20KI1+1C6KikwpD0tsGQ9LZBiNdtQuCLW8GI123CYLoxQmC6MUKADiTBoGIWQqBilsIA" +
      "vtpBwLYIwnDkqsKQOJ1CYLoxwnDkqkIwPMbCIBLNQsAVdkJw5KrCQGa/QoBC8UAAAkFAAALBQSASzcGgUv1BAAJBwLDZIkIAAsHAQCLZQcDh" +
      "KEEAAkHCgELxQSASzcGgUv3BAAJBwIDBkMCA9V3BAE9UwQAbh0AAnGdAAAJBwABoGkHAR4LBgA4kQQAbh0AAG4fBgEJxwQACQUAAG4fBAGia" +
      "wQBomj/AlJVBYLGEwkAAZsJgdsvCgLH3QgCKjcEgxblC4BOowsCdQkJAOx9C4BOoQgCKDcEAig1CwJ1CwgBP1EFgsYRCAIoNwyC8jMIA1yBA" +
      "kMkWQtjCkcJI0JvCAAAAAEjQm8KAQvHAsK6CwgDXIMEgvIxBANcgQSC8jMEAAAAAANegwEjQm8KoGQbDQO6LQdjCEcPAN2nCAJO6wACTOsGg" +
      "QKPC2MIRQwCTusGQjt1CYOVRQmDl0cLQ6S7DAJO6QcA36cI4FSlDYNwkwYDjA0Doj15CWAxvQoDjg0J4E07CeBNOwgiXPUJA1cVAkEp3Qpga" +
      "LUKA44NAKJ4cwrghDEKQSvfBgOODQoCoysFg/pdB2FOLwoCoykCgUv1CgKjKQQhT18I8U0RD6KikwqBS/cEcqRFDcFOxwqBS/cKgUn1CgKhK" +
      "whio8MKwrgLDILwMQgDXoEGAQvFBwAzJQQDXIMKwroLCILwMw8AMycKgJ93CaLUHw8AMycIgvAxCEDXnwsAMyUGQyRZDKKdJQuBXjkE4ewLC" +
      "4FcOwjRGlEKINJrCgMo9QNwioMIs3LfCMBGmQtCD1cHgVw5B4FcOQYxpiMLcIqDC4FcOQQ==",
  },
};

function bytesOf(base64: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function quantization(name: string): GgufQuantization {
  const found = [...GGUF_QUANTIZATIONS.values()].find((candidate) => candidate.name === name);
  ok(found, `${name} is supported`);
  return found;
}

function dequantize(name: string, bytes: Uint8Array<ArrayBuffer>): number[] {
  const { blockSize, blockBytes, dequantize } = quantization(name);
  const out = new Float32Array(bytes.length / blockBytes * blockSize);
  dequantize(bytes, out);
  return [...out];
}

/** A block from its fields: numbers are bytes, `f16` values two of them. */
function block(...fields: (number | { f16: number })[]): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(
    fields.flatMap((field) =>
      typeof field === "number" ? [field] : [...new Uint8Array(new Float16Array([field.f16]).buffer)]
    ),
  );
}

const repeat = <T>(count: number, item: (index: number) => T): T[] => Array.from({ length: count }, (_, i) => item(i));

describe("GGUF_QUANTIZATIONS", () => {
  for (const [name, { blocks, values }] of Object.entries(VECTORS)) {
    it(`${name} gives exactly the values of the reference`, () => {
      deepEqual(dequantize(name, bytesOf(blocks)), [...new Float32Array(bytesOf(values).buffer)]);
    });
  }

  it("Q8_0 is a scale times signed bytes", () => {
    const values = dequantize("Q8_0", block({ f16: 0.25 }, ...repeat(32, (i) => (i - 16) & 255)));
    deepEqual(values, repeat(32, (i) => (i - 16) / 4));
  });

  it("Q4_0 holds numbers i and i + 16 in the halves of byte i, with an offset of 8", () => {
    const values = dequantize("Q4_0", block({ f16: 0.5 }, ...repeat(16, (i) => i | (15 - i) << 4)));
    deepEqual(values, [...repeat(16, (i) => (i - 8) / 2), ...repeat(16, (i) => (7 - i) / 2)]);
  });

  it("Q4_1 adds a minimum", () => {
    const values = dequantize("Q4_1", block({ f16: 0.5 }, { f16: -3 }, ...repeat(16, (i) => i)));
    deepEqual(values, [...repeat(16, (i) => i / 2 - 3), ...repeat(16, () => -3)]);
  });

  it("Q5_0 takes the fifth bit of number i from bit i of the word before the codes", () => {
    const values = dequantize("Q5_0", block({ f16: 1 }, 0x01, 0x00, 0x00, 0x80, ...repeat(16, () => 0)));
    deepEqual(values, repeat(32, (i) => i === 0 || i === 31 ? 0 : -16));
  });

  it("Q5_1 takes the fifth bit likewise and adds a minimum", () => {
    const values = dequantize("Q5_1", block({ f16: 2 }, { f16: 1 }, 0x02, 0x00, 0x01, 0x00, ...repeat(16, () => 0x21)));
    deepEqual(values, [...repeat(16, (i) => i === 1 ? 35 : 3), ...repeat(16, (i) => i === 0 ? 37 : 5)]);
  });

  it("Q4_K has a scale and a minimum for each 32 numbers", () => {
    // Group g has scale code g + 1 and minimum code 2g; every code is 3.
    const packed = [
      ...repeat(4, (g) => g + 1),
      ...repeat(4, (g) => 2 * g),
      ...repeat(4, (g) => (g + 5) | (2 * (g + 4)) << 4),
    ];
    const values = dequantize("Q4_K", block({ f16: 1 }, { f16: 0.5 }, ...packed, ...repeat(128, () => 0x33)));
    deepEqual(values, repeat(256, (i) => 3 * ((i >> 5) + 1) - (i >> 5)));
  });

  it("Q6_K has a signed scale for each 16 numbers, and an offset of 32", () => {
    const scales = repeat(16, (g) => (g - 8) & 255);
    const values = dequantize(
      "Q6_K",
      block(...repeat(128, () => 0x11), ...repeat(64, () => 0xaa), ...scales, { f16: 1 }),
    );
    deepEqual(values, repeat(256, (i) => ((i >> 4) - 8)));
  });

  it("F32, F16 and BF16 are the numbers themselves", () => {
    const numbers = [1, -2.5, 0.15625];
    deepEqual(dequantize("F32", new Uint8Array(new Float32Array(numbers).buffer)), numbers);
    deepEqual(dequantize("F16", new Uint8Array(new Float16Array(numbers).buffer)), numbers);
    deepEqual(dequantize("BF16", block(0x80, 0x3f, 0x20, 0xc0, 0x20, 0x3e)), numbers);
  });
});
