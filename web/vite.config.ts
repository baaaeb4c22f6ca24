// How Vite builds the page: relative addresses, and every file but index.html below ui/.
import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  build: {
    outDir: "../src/pocketvlm/server/ui",
    emptyOutDir: true,
    assetsDir: "ui",
    assetsInlineLimit: 0,
    modulePreload: false,
    target: ["chrome123", "firefox121", "safari17.5"],
    rollupOptions: { output: { entryFileNames: "ui/page-[hash].js", chunkFileNames: "ui/[name]-[hash].js" } },
  },
});
