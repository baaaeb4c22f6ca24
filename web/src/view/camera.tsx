// The camera: a live picture where the browser allows it, else the camera of the phone's own file chooser.
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { addFiles, target } from "../store/draft.ts";
import { t } from "../text/index.ts";
import { Dialog } from "./parts.tsx";

export function Camera({ onClose }: { onClose: () => void }): JSX.Element {
  const video = useRef<HTMLVideoElement>(null);
  const [live, setLive] = useState(false);
  const [ready, setReady] = useState(false);  // a stream gives its first frame, and the size of its frames, later
  useEffect(() => {
    let stream: MediaStream | undefined;
    let here = true;
    void navigator.mediaDevices?.getUserMedia({ video: { facingMode: "environment" } }).then(
      (opened) => {
        if (!here) return opened.getTracks().forEach((track) => track.stop());
        stream = opened;
        if (video.current) video.current.srcObject = opened;
        setLive(true);
      },
      () => undefined,
    );
    return () => { here = false; stream?.getTracks().forEach((track) => track.stop()); };
  }, []);
  const add = (files: Iterable<File>): void => {
    void addFiles(target.value, files);
    onClose();
  };
  const take = (): void => {
    const source = video.current!;
    const canvas = document.createElement("canvas");
    canvas.width = source.videoWidth;
    canvas.height = source.videoHeight;
    canvas.getContext("2d")!.drawImage(source, 0, 0);
    canvas.toBlob((blob) => add([new File([blob!], "camera.jpg", { type: "image/jpeg" })]), "image/jpeg", 0.92);
  };
  return (
    <Dialog title={t("camera")} onClose={onClose} actions={live && <button type="button" class="primary" disabled={!ready} onClick={take}>{t("takePicture")}</button>}>
      <video ref={video} class="camera" autoPlay muted playsInline hidden={!live} onLoadedData={() => setReady(true)} />
      {!live && <p class="hint">{t("cameraHint")}</p>}
      {!live && <label class="button">{t("openCamera")}<input class="off-screen" type="file" accept="image/*" capture="environment" onChange={(event) => add(event.currentTarget.files ?? [])} /></label>}
    </Dialog>
  );
}
