// An answer's text: one component a block, so that a block is drawn once and only the last one changes.
import type { JSX } from "preact";
import { createRef } from "preact";
import { useRef } from "preact/hooks";
import { BlockReader } from "../lib/blocks.ts";
import { copyText } from "../lib/copy.ts";
import { renderBlock } from "../lib/markdown.ts";
import { morph } from "../lib/morph.ts";
import type { Region } from "../lib/special.ts";
import { t } from "../text/index.ts";
import { Memo } from "./parts.tsx";

const NONE: readonly Region[] = [];

interface BlockProps {
  source: string;
  regions: readonly Region[];
}

class Block extends Memo<BlockProps> {
  private readonly box = createRef<HTMLDivElement>();

  override componentDidMount(): void {
    this.draw();
  }

  override componentDidUpdate(): void {
    this.draw();
  }

  private draw(): void {
    const box = this.box.current;
    if (!box) return;
    try {
      morph(box, renderBlock(this.props.source, this.props.regions));
    } catch {
      // Markup that nests thousands of times is more than parsers take: the text is shown as it is.
      box.textContent = this.props.source;
    }
  }

  override render(): JSX.Element {
    return <div ref={this.box} dir="auto" />;
  }
}

function onClick(event: MouseEvent): void {
  const button = (event.target as Element).closest<HTMLButtonElement>("button[data-copy]");
  if (!button) return;
  const code = button.closest(".code-frame")?.querySelector("code")?.textContent ?? "";
  void copyText(code).then((done) => {
    button.dataset["copy"] = done ? "done" : "";
    setTimeout(() => (button.dataset["copy"] = ""), 1500);
  });
}

export function Markdown({ text, regions = NONE }: { text: string; regions?: readonly Region[] }): JSX.Element {
  const reader = useRef<BlockReader>(undefined);
  reader.current ??= new BlockReader();
  return (
    <div class="markdown" onClick={onClick} data-copy-label={t("copy")}>
      {reader.current.read(text).map((source, index) => (
        <Block key={index} source={source} regions={source.includes("\uE000") ? regions : NONE} />
      ))}
    </div>
  );
}
