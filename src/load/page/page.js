/* The figures of one step under the pointer, or under the arrow keys. The page says all it has to
   say without this. */
(function () {
  "use strict";

  var data = JSON.parse(document.getElementById("data").textContent);
  var chart = document.querySelector(".chart");
  if (!chart || !data.steps) return;

  var cross = document.createElement("div");
  var detail = document.createElement("div");
  cross.id = "cross";
  detail.id = "detail";
  detail.setAttribute("role", "status");
  cross.hidden = detail.hidden = true;
  chart.append(cross, detail);
  chart.tabIndex = 0;
  var at = 0;

  function count(number) {
    return number.toLocaleString("en");
  }

  function duration(us) {
    if (us === null) return "none";
    return us < 9950 ? (us / 1000).toFixed(1) + " ms" :
      us < 999500 ? Math.round(us / 1000) + " ms" : (us / 1e6).toFixed(2) + " s";
  }

  function words(step) {
    var from = step * data.step_ms / 1000;
    var lines = [from.toFixed(1) + " s to " + (from + data.step_ms / 1000).toFixed(1) + " s"];
    var restart = data.restarts.filter(function (ms) { return ms <= (step + 1) * data.step_ms; }).length;
    if (data.restarts.length) lines.push(restart ? "restart " + restart : "before the first restart");
    lines.push(count(data.ok[step]) + " requests answered");
    Object.keys(data.failures).forEach(function (key) {
      if (data.failures[key][step]) lines.push("\u2715 " + count(data.failures[key][step]) + " " + key);
    });
    lines.push("median " + duration(data.p50[step]) + ", p99 " + duration(data.p99[step]) +
      ", slowest " + duration(data.max[step]));
    return lines.join("\n");
  }

  function show(step) {
    at = Math.max(0, Math.min(data.steps - 1, step));
    var share = (at + .5) * data.step_ms / data.span_ms;
    var left = Math.min(1, share) * chart.clientWidth;
    cross.hidden = detail.hidden = false;
    cross.style.left = left + "px";
    detail.textContent = words(at);
    var room = chart.clientWidth - left - 14;
    detail.style.left = (room > detail.offsetWidth ? left + 14 :
      Math.max(0, left - 14 - detail.offsetWidth)) + "px";
  }

  function hide() {
    cross.hidden = detail.hidden = true;
  }

  chart.addEventListener("pointermove", function (event) {
    var box = chart.getBoundingClientRect();
    show(Math.floor((event.clientX - box.left) / box.width * data.span_ms / data.step_ms));
  });
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", function (event) {
    var way = { ArrowLeft: -1, ArrowRight: 1, Home: -data.steps, End: data.steps }[event.key];
    if (event.key === "Escape") hide();
    if (!way) return;
    event.preventDefault();
    show(at + way);
  });
})();
