// Asks for the token, fetches with it the page that is at this address, and lets it take this one's place.

const problem = document.getElementById("gate-problem");
const field = document.getElementById("gate-token");

function refuse(words) {
  problem.textContent = words;
  field.select();
}

async function open(token) {
  if (!/^[\x21-\x7e]+$/.test(token)) {
    refuse("The service doesn't accept this token."); // no header can hold it, and no service has it
    return;
  }
  let response;
  try {
    response = await fetch(location.pathname, {
      headers: { Authorization: `Bearer ${token}`, Accept: "application/json" },
      cache: "no-store",
    });
  } catch {
    problem.textContent = "The service can't be reached. Is it still running?";
    return;
  }
  if (!response.ok) {
    refuse(response.status === 401 ? "The service doesn't accept this token." : `The service answered with status ${response.status}.`);
    return;
  }
  const html = await response.text();
  window.fmlpToken = token; // the page takes it, and it is nowhere else
  document.open();
  document.write(html);
  document.close();
}

document.getElementById("gate").addEventListener("submit", (event) => {
  event.preventDefault();
  problem.textContent = "";
  open(field.value.trim());
});
