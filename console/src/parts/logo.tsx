// Strata's sign.

export function Logo() {
  return (
    <svg className="logo" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="7" className="logo-ground" />
      <g fill="none" strokeWidth="2.6" strokeLinecap="round">
        <path d="M7 10h18" className="logo-line" />
        <path d="M7 16h6c3 0 3 6 6 6h6" className="logo-branch" />
        <path d="M16 16h9" className="logo-line" />
      </g>
    </svg>
  );
}
