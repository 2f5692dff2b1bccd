// The title of the window is the heading of the page, without the state of what it is about.
const named = () => {
  const heading = document.querySelector("#page h1")?.cloneNode(true);
  heading?.querySelectorAll(".badge").forEach(badge => badge.remove());
  const words = heading?.textContent.trim();
  const title = words ? `${words} – Elastiform` : "Elastiform";
  if (document.title !== title) document.title = title;
};
new MutationObserver(named).observe(document.body, {childList: true, subtree: true, characterData: true});
