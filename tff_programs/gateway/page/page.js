"use strict";

const SECONDS = 3;
const COLORS = ["#3b7ddd", "#d9772b", "#3a9d5d", "#b0489e", "#8a8f98", "#c2a11f"];
const byId = (id) => document.getElementById(id);

function element(name, attributes, ...content) {
  const isSvg = ["polyline", "line", "text", "circle"].includes(name);
  const made = isSvg
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

function fillTable(id, heads, rows) {
  const isNumber = (column) => rows.length > 0 && rows.every((row) => typeof row[column] === "number");
  const cells = (name, row) =>
    element("tr", {}, ...row.map((value, column) =>
      element(name, isNumber(column) ? { class: "number" } : {}, value instanceof Node ? value : String(value))));
  byId(id).replaceChildren(
    element("thead", {}, cells("th", heads)),
    element("tbody", {}, ...rows.map((row) => cells("td", row))));
}

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  while (count >= 1000 && place < units.length - 1) { count /= 1000; place += 1; }
  return `${count.toFixed(place && count < 100 ? 1 : 0)} ${units[place]}`;
}

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function showRound(round) {
  byId("number").textContent = round ? round.number : "";
  if (!round) { byId("round").textContent = "The first models are being made."; return; }
  byId("progress").value = Math.min(1, round.waiting / round.goal);
  byId("round").textContent = {
    open: `${round.waiting} of ${round.goal} updates; open for ${duration(round.seconds)}, closed in ${duration(round.deadline_seconds)} at the latest.`,
    resting: `No device gets a task: the privacy budget is spent. A larger --max_epsilon goes on.`,
    closing: `${round.waiting} updates are being merged.`,
  }[round.state];
  fillTable("tiers", ["Tier", "Parameters", "Goal", "Asked", "At work", "Sent"],
    round.tiers.map((tier) => [tier.tier, tier.parameters, tier.goal, tier.asked, tier.at_work, tier.sent]));
}

function showChart(rounds) {
  const standing = rounds.filter((round) => round.state !== "undone" && Object.keys(round.accuracies).length);
  const chart = byId("chart");
  chart.replaceChildren();
  const tiers = [...new Set(standing.flatMap((round) => Object.keys(round.accuracies)))];
  const numbers = standing.map((round) => round.number);
  const first = Math.min(...numbers), last = Math.max(...numbers);
  const x = (number) => 40 + 550 * (last > first ? (number - first) / (last - first) : 0.5);
  const y = (share) => 195 - 185 * share;
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    chart.append(
      element("line", { class: "grid", x1: 40, x2: 590, y1: y(share), y2: y(share) }),
      element("text", { x: 4, y: y(share) + 4 }, `${100 * share} %`));
  }
  if (!standing.length) return;
  chart.append(
    element("text", { x: 40, y: 214 }, `round ${first}`),
    element("text", { x: 590, y: 214, "text-anchor": "end" }, `round ${last}`));
  tiers.forEach((tier, place) => {
    const color = COLORS[place % COLORS.length];
    const points = standing.filter((round) => tier in round.accuracies)
      .map((round) => [x(round.number), y(round.accuracies[tier])]);
    chart.append(element("polyline", {
      points: points.map((point) => point.join(",")).join(" "), fill: "none", stroke: color, "stroke-width": 2 }));
    const [cx, cy] = points[points.length - 1];
    chart.append(element("circle", { cx, cy, r: 3, fill: color }));
  });
  const newest = standing[standing.length - 1].accuracies;
  byId("legend").replaceChildren(...tiers.flatMap((tier, place) => {
    const mark = element("span", { class: "mark" });
    mark.style.background = COLORS[place % COLORS.length];
    const share = tier in newest ? ` ${(100 * newest[tier]).toFixed(1)} %` : "";
    return [mark, `${tier}${share}`];
  }));
}

function showRounds(rounds) {
  const refused = (codes) => Object.entries(codes).map(([code, count]) => `${code} ${count}`).join(", ");
  fillTable("rounds", ["Round", "State", "Used", "Late", "Left out", "Refused", "Received", "Supernet"],
    rounds.slice().reverse().map((round) => [
      round.number, round.state, round.used, round.late, round.left_out, refused(round.refused), bytes(round.bytes),
      element("a", { href: `/supernets/${round.id}`, download: "" }, round.supernet.slice(0, 8))]));
}

function show(state) {
  const { enrolled, active, revoked } = state.devices;
  byId("state").textContent =
    `${enrolled} devices enrolled, ${active} active, ${revoked} revoked; `
    + `${bytes(state.received_bytes)} of updates in these rounds, ${bytes(state.sent_bytes)} of models sent by this process`;
  showRound(state.round);
  showChart(state.rounds);
  showRounds(state.rounds);
  fillTable("left_out", ["Device", "Update", "Reason"],
    state.left_out.map((update) => [update.device.slice(0, 8), update.hash.slice(0, 8), update.reason]));
}

async function poll() {
  try {
    const answer = await fetch("/overview", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    show(await answer.json());
  } catch (error) {
    byId("state").textContent = `The server does not answer (${error.message}).`;
  }
  setTimeout(poll, SECONDS * 1000);
}

poll();
