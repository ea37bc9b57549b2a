import { Tokenizer } from "../../models/tokenizer.ts";
import type { TokenizerFiles } from "../../models/tokenizer_files.ts";
import { randomFor } from "./random.ts";
import { recast } from "./stories.ts";
import { trainTokenizer } from "./train_tokenizer.ts";
import { joinStories, type TokenStream } from "./windows.ts";

/** Every so many stories one is held out; evenly, because kinds of stories lie together in a file. */
const STORIES_PER_HELD_OUT = 20;
/** Share of the stories that are told about others, anew in each epoch. */
const RECAST_SHARE = 0.75;

/** Stories as a model learns them. */
export interface StoryData {
  /** Learned from the stories that are not held out. */
  readonly tokenizer: TokenizerFiles;
  readonly learnedStories: readonly string[];
  /** Tokens of an epoch. */
  readonly tokens: number;
  readonly heldOutStories: readonly string[];
  /** Their tokens. */
  readonly heldOut: Uint16Array;
  readonly extraTokens: number;
  /** The stories of an epoch, names and colours changed in most of them; those in `extra` too if they are wanted. */
  epoch(index: number, withExtra: boolean): TokenStream;
}

/** @param extra Stories that only some epochs have; they are not recast, and none is held out. */
export function prepareStories(
  stories: readonly string[],
  { extra, vocabSize, seed }: { extra: readonly string[]; vocabSize: number; seed: number },
): StoryData {
  const isHeldOut = (index: number) => index % STORIES_PER_HELD_OUT === STORIES_PER_HELD_OUT - 1;
  const learnedStories = stories.filter((_, index) => !isHeldOut(index));
  const heldOutStories = stories.filter((_, index) => isHeldOut(index));
  const files = trainTokenizer(learnedStories, vocabSize);
  const tokenizer = new Tokenizer(files);
  const encode = (story: string) => tokenizer.encode(story, { addSpecialTokens: true });
  const extraIds = extra.map(encode);
  return {
    tokenizer: files,
    learnedStories,
    tokens: joinStories(learnedStories.map(encode)).tokens.length,
    heldOutStories,
    heldOut: joinStories(heldOutStories.map(encode)).tokens,
    extraTokens: extraIds.reduce((sum, { length }) => sum + length, 0),
    epoch(index, withExtra) {
      const random = randomFor(seed, "recast", index);
      const told = learnedStories.map((story) => encode(random() < RECAST_SHARE ? recast(story, random) : story));
      return joinStories(withExtra ? [...told, ...extraIds] : told);
    },
  };
}
