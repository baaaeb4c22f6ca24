// Line icons, 24 by 24.
import type { JSX } from "preact";

const PATHS = {
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  clip: "M20 11l-8.5 8.5a5 5 0 01-7-7L13 4a3.4 3.4 0 015 5l-8.5 8.5a1.7 1.7 0 01-2.5-2.5L14.5 7.5",
  camera: "M4 8h3l2-3h6l2 3h3v11H4zM12 16a3 3 0 100-6 3 3 0 000 6z",
  link: "M10 14a4 4 0 006 0l3-3a4 4 0 00-6-6l-1 1M14 10a4 4 0 00-6 0l-3 3a4 4 0 006 6l1-1",
  gear: "M12 15a3 3 0 100-6 3 3 0 000 6zM19.4 13.5l2-1-2-3.5-2.2.6-1.7-1-.5-2.1h-4l-.6 2.1-1.7 1-2.1-.6-2 3.5 1.5 1.5v2l-1.5 1.5 2 3.5 2.1-.6 1.7 1 .6 2.1h4l.5-2.1 1.7-1 2.2.6 2-3.5-1.6-1.5z",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M5 12l5 5 9-10",
  redo: "M20 5v5h-5M19.5 10a8 8 0 10.5 4",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  left: "M15 6l-6 6 6 6",
  right: "M9 6l6 6-6 6",
  down: "M6 9l6 6 6-6",
  columns: "M4 5h16v14H4zM12 5v14",
  server: "M4 5h16v5H4zM4 14h16v5H4zM8 7.5h.01M8 16.5h.01",
  search: "M11 18a7 7 0 100-14 7 7 0 000 14zM16 16l5 5",
  share: "M12 15V4M8 8l4-4 4 4M5 13v7h14v-7",
  save: "M12 4v11M8 11l4 4 4-4M5 19h14",
  open: "M4 19V6h6l2 2h8v11z",
  eye: "M3 12c3-5 6-7 9-7s6 2 9 7c-3 5-6 7-9 7s-6-2-9-7zM12 15a3 3 0 100-6 3 3 0 000 6z",
  tool: "M14 7a4 4 0 005 5l-8.5 8.5a2 2 0 01-3-3L16 9M14 7l3-3a5 5 0 00-6 6l-7 7",
  sun: "M12 16a4 4 0 100-8 4 4 0 000 8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5L19 19M19 5l-1.5 1.5M6.5 17.5L5 19",
  play: "M8 5l11 7-11 7z",
  video: "M4 6h11v12H4zM15 11l5-3v8l-5-3",
  down2: "M12 5v14M6 13l6 6 6-6",
  language: "M4 6h9M8.500 4v2M11 6c-1 4-3.500 6.500-7 8M6 9c1 2.500 3 4 6 5M12 20l4-9 4 9M13.500 17h5",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }): JSX.Element {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
