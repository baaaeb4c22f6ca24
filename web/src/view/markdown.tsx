// An answer's text: one component a block, so that a block is drawn once and only the last one changes.
import type { JSX } from "preact";
import { createRef } from "preact";
import { blocks } from "../lib/blocks.ts";
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
    if (this.box.current) morph(this.box.current, renderBlock(this.props.source, this.props.regions));
  }

  override render(): JSX.Element {
    return <div ref={this.box} />;
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
  return (
    <div class="markdown" onClick={onClick} data-copy-label={t("copy")}>
      {blocks(text).map((source, index) => (
        <Block key={index} source={source} regions={source.includes("\uE000") ? regions : NONE} />
      ))}
    </div>
  );
}
