// The SQL editor: CodeMirror, which knows the dialect, with the place of an error underlined.

import { autocompletion, closeBrackets, completionKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { PostgreSQL, type SQLNamespace, sql } from "@codemirror/lang-sql";
import { bracketMatching, HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { Compartment, EditorState, StateEffect, StateField } from "@codemirror/state";
import {
  Decoration,
  type DecorationSet,
  drawSelection,
  EditorView,
  highlightActiveLine,
  keymap,
  lineNumbers,
} from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { type RefObject, useEffect, useImperativeHandle, useRef } from "react";

export interface EditorHandle {
  /** The selection, or all; with the offset at which it begins. */
  picked(): { readonly text: string; readonly offset: number };
  replace(text: string): void;
  /** An offset of the text, underlined until the next change. */
  mark(offset: number): void;
}

interface EditorProps {
  readonly handle: RefObject<EditorHandle | null>;
  readonly initial: string;
  readonly schema: SQLNamespace;
  readonly onChange: (text: string) => void;
  readonly onRun: () => void;
}

const setMark = StateEffect.define<number | undefined>();
const MARK = Decoration.mark({ class: "cm-error-place" });

const marks = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update: (before, transaction) => {
    for (const effect of transaction.effects) {
      if (effect.is(setMark)) {
        const { doc } = transaction.state;
        if (effect.value === undefined || doc.length === 0) {
          return Decoration.none;
        }
        const from = Math.min(effect.value, doc.length - 1);
        const word = transaction.state.wordAt(from);
        return Decoration.set([MARK.range(word?.from ?? from, word?.to ?? from + 1)]);
      }
    }
    return transaction.docChanged ? Decoration.none : before;
  },
  provide: (field) => EditorView.decorations.from(field),
});

/** Colours are the page's, so that they follow light and dark. */
const HIGHLIGHT = HighlightStyle.define([
  { tag: tags.keyword, class: "sql-keyword" },
  { tag: [tags.string, tags.special(tags.string)], class: "sql-string" },
  { tag: [tags.number, tags.bool, tags.null], class: "sql-number" },
  { tag: tags.comment, class: "sql-comment" },
  { tag: tags.typeName, class: "sql-type" },
]);

export function Editor({ handle, initial, schema, onChange, onRun }: EditorProps) {
  const holder = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView>(null);
  const language = useRef(new Compartment());
  const callbacks = useRef({ onChange, onRun });
  callbacks.current = { onChange, onRun };
  // biome-ignore lint/correctness/useExhaustiveDependencies: made once; what changes goes through callbacks
  useEffect(() => {
    const run = () => {
      callbacks.current.onRun();
      return true;
    };
    const editor = new EditorView({
      parent: holder.current!,
      state: EditorState.create({
        doc: initial,
        extensions: [
          EditorView.cspNonce.of(nonce()),
          EditorView.contentAttributes.of({ "aria-label": "SQL" }),
          keymap.of([
            { key: "Mod-Enter", run },
            ...completionKeymap,
            ...defaultKeymap,
            ...historyKeymap,
            indentWithTab,
          ]),
          ...[lineNumbers(), history(), drawSelection(), bracketMatching(), closeBrackets()],
          ...[highlightActiveLine(), autocompletion({ icons: false }), EditorView.lineWrapping],
          ...[syntaxHighlighting(HIGHLIGHT), marks],
          language.current.of(sql({ dialect: PostgreSQL, schema })),
          EditorView.updateListener.of((update) => {
            if (update.docChanged) {
              callbacks.current.onChange(update.state.doc.toString());
            }
          }),
        ],
      }),
    });
    view.current = editor;
    return () => editor.destroy();
  }, []);
  useEffect(() => {
    view.current?.dispatch({
      effects: language.current.reconfigure(sql({ dialect: PostgreSQL, schema })),
    });
  }, [schema]);
  useImperativeHandle(handle, () => ({
    picked: () => {
      const { state } = view.current!;
      const { from, to, empty } = state.selection.main;
      return empty
        ? { text: state.doc.toString(), offset: 0 }
        : { text: state.sliceDoc(from, to), offset: from };
    },
    replace: (text) => {
      const editor = view.current!;
      editor.dispatch({ changes: { from: 0, to: editor.state.doc.length, insert: text } });
      editor.focus();
    },
    mark: (offset) =>
      view.current!.dispatch({
        effects: [setMark.of(offset), EditorView.scrollIntoView(offset, { y: "nearest" })],
      }),
  }));
  return <div ref={holder} className="editor" />;
}

/** Of the page, for what CodeMirror makes as style. */
function nonce(): string {
  return document.querySelector<HTMLMetaElement>("meta[name=csp-nonce]")?.content ?? "";
}
