/** The two JSON documents that define a tokenizer, as Hugging Face writes them. */
export interface TokenizerFiles {
  /** `tokenizer.json`, parsed. */
  readonly tokenizerJson: Readonly<Record<string, unknown>>;
  /** `tokenizer_config.json`, parsed; a chat template kept in a file of its own has been put in as `chat_template`. */
  readonly tokenizerConfig: Readonly<Record<string, unknown>>;
}
