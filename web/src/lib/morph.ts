// Changes drawn nodes into new ones and leaves equal ones alone, so that a growing answer keeps its layout and selection.

export function morph(parent: Element, next: DocumentFragment | Element): void {
  const wanted = [...next.childNodes];
  wanted.forEach((node, index) => {
    const old = parent.childNodes[index];
    if (!old) parent.append(node);
    else if (!old.isEqualNode(node)) replace(old, node);
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild!.remove();
}

function replace(old: ChildNode, node: ChildNode): void {
  if (old instanceof HTMLElement && node instanceof HTMLElement && old.tagName === node.tagName && sameAttributes(old, node)) {
    morph(old, node);
  } else if (old instanceof Text && node instanceof Text) {
    old.data = node.data;
  } else {
    old.replaceWith(node);
  }
}

function sameAttributes(one: Element, other: Element): boolean {
  return one.attributes.length === other.attributes.length && [...one.attributes].every(({ name, value }) => other.getAttribute(name) === value);
}
