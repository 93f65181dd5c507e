// The filters of the list: times as they are here, sent in UTC; what is left empty is not sent.

const form = document.getElementById("filters");

for (const field of form.querySelectorAll("input[data-utc]")) {
  if (field.dataset.utc) {
    const moment = new Date(field.dataset.utc);
    field.value = new Date(moment - moment.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = new URLSearchParams();
  for (const field of form.elements) {
    if (!field.name || !field.value) continue;
    const time = field.type === "datetime-local";
    wanted.set(field.name, time ? new Date(field.value).toISOString() : field.value);
  }
  location.search = wanted;
});
