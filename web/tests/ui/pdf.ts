// PDF files for tests.

/** A PDF file of empty pages, each with a filled square. */
export function pdfOf(pages: number): Buffer {
  const objects = ["<</Type/Catalog/Pages 2 0 R>>", `<</Type/Pages/Count ${pages}/Kids[${Array.from({ length: pages }, (_, index) => `${3 + 2 * index} 0 R`).join(" ")}]>>`];
  for (let page = 0; page < pages; page++) {
    const drawing = `${page / pages} 0.4 0.6 rg 20 20 ${40 + 20 * page} 60 re f`;
    objects.push(`<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents ${4 + 2 * page} 0 R>>`, `<</Length ${drawing.length}>>stream\n${drawing}\nendstream`);
  }
  let text = "%PDF-1.4\n";
  const offsets = objects.map((object, index) => {
    const at = text.length;
    text += `${index + 1} 0 obj${object}endobj\n`;
    return at;
  });
  const table = text.length;
  text += `xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${offsets.map((at) => `${String(at).padStart(10, "0")} 00000 n \n`).join("")}trailer<</Size ${objects.length + 1}/Root 1 0 R>>\nstartxref\n${table}\n%%EOF`;
  return Buffer.from(text, "latin1");
}
