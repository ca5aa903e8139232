// What asks for a name: of something new, or of something that goes, to be sure.

interface NameFieldProps {
  readonly value: string;
  readonly onChange: (value: string) => void;
  readonly label?: string;
  /** In letters. */
  readonly maxLength?: number;
  /** The control plane makes one up. */
  readonly isOptional?: boolean;
}

export function NameField(props: NameFieldProps) {
  const { value, onChange, label = "Name", maxLength = 256, isOptional = false } = props;
  return (
    <label className="field">
      <span>{label}</span>
      <input
        required={!isOptional}
        placeholder={isOptional ? "one is made up where there is none" : undefined}
        maxLength={maxLength}
        value={value}
        onChange={(event) => onChange(event.target.value)}
      />
    </label>
  );
}

interface NameToConfirmProps {
  readonly name: string;
  readonly value: string;
  readonly onChange: (value: string) => void;
}

export function NameToConfirm({ name, value, onChange }: NameToConfirmProps) {
  return (
    <label className="field">
      <span>
        Its name, to confirm: <bdi>{name}</bdi>
      </span>
      <input value={value} autoComplete="off" onChange={(event) => onChange(event.target.value)} />
    </label>
  );
}
