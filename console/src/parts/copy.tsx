// Text that is to be copied, and the button for it.

import { useState } from "react";
import { ScrollPlace } from "./scroll-place.tsx";

export function CopyButton({
  text,
  label = "Copy",
}: {
  readonly text: string;
  readonly label?: string;
}) {
  const [isCopied, setIsCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setIsCopied(true);
    setTimeout(() => setIsCopied(false), 1500);
  };
  return (
    <button type="button" className="small" onClick={() => void copy()}>
      {isCopied ? "Copied" : label}
    </button>
  );
}

export function CodeBlock({ text, label }: { readonly text: string; readonly label: string }) {
  return (
    <div className="code-block">
      <ScrollPlace label={label}>
        <pre>{text}</pre>
      </ScrollPlace>
      <CopyButton text={text} />
    </div>
  );
}
