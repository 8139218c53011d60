// The camera: started only when asked, stopped as soon as it isn't looked at.

const REASONS = {
  NotAllowedError: "The camera was refused. Allow it in the browser's settings for this page, or choose a picture.",
  NotFoundError: "No camera was found. Choose a picture instead.",
  NotReadableError: "The camera is in use by another program. Close that and try again.",
};

export class Camera {
  constructor(video) {
    this.video = video;
    this.stream = null;
    this.asked = 0;
  }

  /** Start; throws an Error whose message can be shown. False when stopped while still starting. */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error(
        window.isSecureContext
          ? "This browser gives no access to a camera. Choose a picture instead."
          : "Browsers allow the camera only over HTTPS or on this machine. Choose a picture instead.",
      );
    }
    const asked = ++this.asked;
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: { ideal: "environment" }, width: { ideal: 1280 } },
      });
    } catch (error) {
      throw new Error(REASONS[error.name] ?? "The camera can't be started. Choose a picture instead.");
    }
    if (asked !== this.asked) {
      for (const track of stream.getTracks()) track.stop();
      return false;
    }
    this.stream = stream;
    this.video.srcObject = stream;
    await this.video.play();
    return true;
  }

  stop() {
    this.asked++;
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
  }

  /** The middle square of what is seen, as it is shown: [source, x, y, side]. Null before the first frame. */
  frame() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const side = Math.min(width, height);
    return side ? { x: (width - side) / 2, y: (height - side) / 2, side } : null;
  }
}
