// Writes the server's configuration: nested objects are tables, arrays of objects are arrays of tables.

const isTable = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isTables = (value) => Array.isArray(value) && value.length > 0 && value.every(isTable);

/** A value as TOML writes it; JSON's strings, numbers, booleans and flat arrays are TOML's too. */
const inline = (value) => JSON.stringify(value);

/** The object as a TOML document. */
export function toToml(object, path = []) {
  const lines = [];
  for (const [key, value] of Object.entries(object)) {
    if (!isTable(value) && !isTables(value)) lines.push(`${key} = ${inline(value)}`);
  }
  for (const [key, value] of Object.entries(object)) {
    const name = [...path, key].join(".");
    if (isTable(value)) lines.push("", `[${name}]`, toToml(value, [...path, key]));
    if (isTables(value)) for (const table of value) lines.push("", `[[${name}]]`, toToml(table, [...path, key]));
  }
  return lines.join("\n");
}
