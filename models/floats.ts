/** Float32 numbers in a buffer that no other thread shares. */
export type Floats = Float32Array<ArrayBuffer>;
